"""The settings: where they come from, and what a bad one says."""

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest

import billing_client
from billing_service.settings import ENV_FILES, Rate, Settings, SettingsError, load_settings

SECRET_URL = "postgresql://billing:s3cr3t@db.example/billing"
REACHABLE = {"DATABASE_URL": SECRET_URL}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, from which the env files are read, and no variables of the developer's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BILLING_", "DATABASE_URL"))]:
        monkeypatch.delenv(name)
    return tmp_path


def refusal(environment: dict[str, str], **overrides: object) -> str:
    """The message of a refused setting: one line without secrets."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environment, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "s3cr3t" not in message
    return message


def test_defaults() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert (settings.env, settings.host, settings.port, settings.currency) == ("development", "127.0.0.1", 3000, "USD")
    assert settings.database_url is None


def test_every_setting_comes_from_its_variable() -> None:
    settings = load_settings(
        {
            "BILLING_ENV": "production",
            "DATABASE_URL": SECRET_URL,
            "BILLING_READ_DATABASE_URL": SECRET_URL,
            "BILLING_DATA_DIR": "/data",
            "BILLING_HOST": "::1",
            "BILLING_PORT": "8080",
            "BILLING_WORKERS": "4",
            "BILLING_CURRENCY": "EUR",
            "BILLING_POOL_SIZE": "20",
            "BILLING_DATABASE_TIMEOUT": "2.5",
            "BILLING_DRAIN_DELAY": "1.5",
            "BILLING_SHUTDOWN_TIMEOUT": "7",
            "BILLING_MAX_BODY_BYTES": "4096",
            "BILLING_MAX_RECEIVING_BYTES": "8192",
            "BILLING_MAX_SENDING_BYTES": "1048576",
            "BILLING_QUEUE_RECORDS": "50",
            "BILLING_MAX_REQUESTS": "60",
            "BILLING_MAX_EVENT_STREAMS": "7",
            "BILLING_REFUSAL_DAYS": "0",
            "BILLING_REFUSALS_PER_CUSTOMER": "5",
            "BILLING_REFUSALS_KEPT": "6",
            "BILLING_REQUESTS_PER_KEY": "600/m",
            "BILLING_RECORDS_PER_KEY": "10000/s",
            "BILLING_REQUESTS_PER_ADDRESS": "5/h",
            "BILLING_RECORDS_PER_ADDRESS": "999999999/d",
            "BILLING_RATE_LIMIT_STORE": "redis://:s3cr3t@cache.example:6379/1",
            "BILLING_ALLOWED_HOSTS": "Billing.Example, 192.0.2.1,[2001:DB8::1]",
            "BILLING_TRUSTED_PROXIES": "192.0.2.1, 2001:db8::/64",
            "BILLING_LOG_FORMAT": "console",
            "BILLING_LOG_LEVEL": "error",
            "BILLING_TRACES": "otlp",
        }
    )
    assert settings == Settings(
        env="production",
        database_url=SECRET_URL,
        read_database_url=SECRET_URL,
        data_dir="/data",
        host="::1",
        port=8080,
        workers=4,
        currency="EUR",
        pool_size=20,
        database_timeout=2.5,
        drain_delay=1.5,
        shutdown_timeout=7,
        max_body_bytes=4096,
        max_receiving_bytes=8192,
        max_sending_bytes=1_048_576,
        queue_records=50,
        max_requests=60,
        max_event_streams=7,
        refusal_days=0,
        refusals_per_customer=5,
        refusals_kept=6,
        requests_per_key="600/m",
        records_per_key="10000/s",
        requests_per_address="5/h",
        records_per_address="999999999/d",
        rate_limit_store="redis://:s3cr3t@cache.example:6379/1",
        allowed_hosts="Billing.Example, 192.0.2.1,[2001:DB8::1]",
        trusted_proxies="192.0.2.1, 2001:db8::/64",
        log_format="console",
        log_level="error",
        traces="otlp",
    )
    assert settings.database_url is not None
    assert settings.host_names == {"billing.example", "192.0.2.1", "2001:db8::1"}
    assert settings.rates == {
        "address-requests": Rate(5, timedelta(hours=1), "requests"),
        "address-records": Rate(999_999_999, timedelta(days=1), "records"),
        "key-requests": Rate(600, timedelta(minutes=1), "requests"),
        "key-records": Rate(10_000, timedelta(seconds=1), "records"),
    }


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_PORT", "4321")
    assert load_settings().port == 4321


@pytest.mark.parametrize(
    ("env", "port"), [(None, 3001), ("", 3001), ("development", 3001), ("staging", 3002), ("production", 3003)]
)
def test_billing_env_chooses_the_file(working_folder: Path, env: str | None, port: int) -> None:
    for name, value in ((".env", 3001), (".env.staging", 3002), (".env.production", 3003)):
        (working_folder / name).write_text(f"BILLING_PORT={value}\nDATABASE_URL={SECRET_URL}\n")
    settings = load_settings({} if env is None else {"BILLING_ENV": env})
    assert (settings.env, settings.port) == (env or "development", port)


@pytest.mark.parametrize("env", ["development", "production"])
def test_a_file_that_would_choose_the_environment_is_refused(working_folder: Path, env: str) -> None:
    file = ENV_FILES[env]
    (working_folder / file).write_text(f"BILLING_ENV=production\nDATABASE_URL={SECRET_URL}\n")
    message = refusal({"BILLING_ENV": env})
    assert message.startswith(f"BILLING_ENV: it is set in the file {file}, ")
    assert "it must be set in the environment" in message


def test_an_environment_that_a_file_leaves_empty_is_not_set_there(working_folder: Path) -> None:
    (working_folder / ".env").write_text("BILLING_ENV=\nBILLING_PORT=3001\n")
    assert load_settings({}) == Settings(port=3001)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BILLING_WORKRES", "BILLING_WORKERS"),
        ("BILLING_WORKER", "BILLING_WORKERS"),
        ("BILLING_DATABASE_URL", "DATABASE_URL"),
        ("BILLING_MAX_BODY_SIZE", "BILLING_MAX_BODY_BYTES"),
        ("BILLING_APIKEY", "BILLING_API_KEY"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_misspelt_setting_is_refused_with_a_suggestion(
    working_folder: Path, place: str, name: str, meant: str
) -> None:
    if place == "file":
        (working_folder / ".env").write_text(f"{name}=s3cr3t\n")
    message = refusal({name: "s3cr3t"} if place == "environment" else {})
    where = "the environment" if place == "environment" else ".env"
    assert message.startswith(f"{name}: there is no such setting (found in {where}); it must be {meant}")


@pytest.mark.parametrize("name", ["BILLING_X", "BILLING_SERVICE_HOST"])  # nothing shows that Kubernetes set the second
def test_a_name_like_no_setting_is_refused_without_a_suggestion(name: str) -> None:
    message = refusal({name: "10.0.0.1"})
    assert message == (
        f"{name}: there is no such setting (found in the environment); "
        "it must be a name that .env.example lists, or be removed"
    )


def test_names_of_the_client_and_of_the_tests_are_left_alone() -> None:
    client = "".join(path.read_text() for path in Path(billing_client.__file__).parent.rglob("*.py"))
    names = set(re.findall(r"\bBILLING_[A-Z_]*[A-Z]\b", client))
    assert {"BILLING_BASE_URL", "BILLING_API_KEY"} <= names
    assert load_settings({"BILLING_TEST_DATABASE_URL": "x"} | dict.fromkeys(names, "x")) == Settings()


KUBERNETES = {  # what a container gets in a namespace with Services called billing and billing-db
    "BILLING_SERVICE_HOST": "10.0.171.239",
    "BILLING_SERVICE_PORT": "80",
    "BILLING_SERVICE_PORT_HTTP_API": "80",
    "BILLING_PORT": "tcp://10.0.171.239:80",
    "BILLING_PORT_80_TCP": "tcp://10.0.171.239:80",
    "BILLING_PORT_80_TCP_PROTO": "tcp",
    "BILLING_PORT_80_TCP_PORT": "80",
    "BILLING_PORT_80_TCP_ADDR": "10.0.171.239",
    "BILLING_DB_SERVICE_HOST": "fd00::7",
    "BILLING_DB_SERVICE_PORT": "5432",
    "BILLING_DB_PORT": "tcp://[fd00::7]:5432",
    "BILLING_DB_PORT_5432_TCP": "tcp://[fd00::7]:5432",
    "BILLING_DB_PORT_5432_TCP_PROTO": "tcp",
    "BILLING_DB_PORT_5432_TCP_PORT": "5432",
    "BILLING_DB_PORT_5432_TCP_ADDR": "fd00::7",
}
DOCKER_LINK = {  # what `docker run --link web:billing` gives
    "BILLING_NAME": "/service/billing",
    "BILLING_PORT": "tcp://172.17.0.5:3000",
    "BILLING_PORT_3000_TCP": "tcp://172.17.0.5:3000",
    "BILLING_PORT_3000_TCP_PROTO": "tcp",
    "BILLING_PORT_3000_TCP_PORT": "3000",
    "BILLING_PORT_3000_TCP_ADDR": "172.17.0.5",
    "BILLING_ENV_PATH": "/usr/bin",
}


@pytest.mark.parametrize("injected", [KUBERNETES, DOCKER_LINK], ids=["kubernetes", "docker"])
def test_variables_that_an_orchestrator_injects_are_left_alone(working_folder: Path, injected: dict[str, str]) -> None:
    assert load_settings(injected) == Settings()
    assert load_settings(injected | {"BILLING_PORT": "8080"}) == Settings(port=8080)  # set in the manifest
    (working_folder / ".env").write_text("BILLING_PORT=3001\n")
    assert load_settings(injected) == Settings(port=3001)
    assert refusal(injected | {"BILLING_WORKRES": "2"}).startswith("BILLING_WORKRES: ")
    assert refusal(injected | {"BILLING_PORTS": "2"}).startswith("BILLING_PORTS: ")


def test_overrides_win_over_the_environment_and_that_over_the_file(working_folder: Path) -> None:
    (working_folder / ".env").write_text("BILLING_HOST=file\nBILLING_PORT=1\nBILLING_WORKERS=1\n")
    settings = load_settings({"BILLING_PORT": "2", "BILLING_WORKERS": "2"}, host=None, port=None, workers=3)
    assert (settings.host, settings.port, settings.workers) == ("file", 2, 3)


def test_an_empty_variable_is_as_good_as_none(working_folder: Path) -> None:
    (working_folder / ".env").write_text("BILLING_PORT=3001\nBILLING_WORKERS=\nBILLING_HOST\n")
    settings = load_settings({"BILLING_PORT": "", "DATABASE_URL": ""})
    assert settings == Settings(port=3001)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BILLING_ENV", "prod"),
        ("BILLING_ENV", "Production"),
        ("BILLING_PORT", "0"),
        ("BILLING_PORT", "65536"),
        ("BILLING_PORT", "-1"),
        ("BILLING_PORT", "http"),
        ("BILLING_PORT", "3000.5"),
        ("BILLING_WORKERS", "0"),
        ("BILLING_WORKERS", "257"),
        ("BILLING_WORKERS", "two"),
        ("BILLING_CURRENCY", "usd"),
        ("BILLING_CURRENCY", "EURO"),
        ("BILLING_CURRENCY", "USD\n"),
        ("BILLING_POOL_SIZE", "1"),
        ("BILLING_POOL_SIZE", "1001"),
        ("BILLING_DATABASE_TIMEOUT", "0"),
        ("BILLING_DATABASE_TIMEOUT", "601"),
        ("BILLING_DATABASE_TIMEOUT", "nan"),
        ("BILLING_DATABASE_TIMEOUT", "inf"),
        ("BILLING_DRAIN_DELAY", "-1"),
        ("BILLING_DRAIN_DELAY", "601"),
        ("BILLING_DRAIN_DELAY", "nan"),
        ("BILLING_SHUTDOWN_TIMEOUT", "0"),
        ("BILLING_SHUTDOWN_TIMEOUT", "1.5"),
        ("BILLING_MAX_BODY_BYTES", "1023"),
        ("BILLING_MAX_BODY_BYTES", "1073741825"),
        ("BILLING_MAX_RECEIVING_BYTES", "1023"),
        ("BILLING_MAX_RECEIVING_BYTES", "64M"),
        ("BILLING_MAX_RECEIVING_BYTES", "1099511627777"),
        ("BILLING_MAX_SENDING_BYTES", "1048575"),
        ("BILLING_MAX_SENDING_BYTES", "0"),
        ("BILLING_QUEUE_RECORDS", "0"),
        ("BILLING_QUEUE_RECORDS", "1000001"),
        ("BILLING_MAX_REQUESTS", "0"),
        ("BILLING_REQUESTS_PER_KEY", "0/s"),
        ("BILLING_REQUESTS_PER_KEY", "10"),
        ("BILLING_REQUESTS_PER_KEY", "10/w"),
        ("BILLING_REQUESTS_PER_ADDRESS", "-1/s"),
        ("BILLING_REQUESTS_PER_ADDRESS", "1.5/s"),
        ("BILLING_REQUESTS_PER_ADDRESS", "1/s\n"),
    ],
)
def test_a_bad_value_names_the_variable_its_fault_and_what_would_be_right(variable: str, value: str) -> None:
    message = refusal(REACHABLE | {variable: value})
    assert message.startswith(f"{variable}: {value!r} is not valid; it must be ")
    assert len(message.partition("it must be ")[2]) > 5


@pytest.mark.parametrize("variable", ["BILLING_RECORDS_PER_KEY", "BILLING_RECORDS_PER_ADDRESS"])
def test_a_limit_of_records_that_no_whole_batch_would_pass_is_refused(variable: str) -> None:
    message = refusal({variable: "9999/s"})
    assert message.startswith(f"{variable}: '9999/s' is not valid: a batch may hold 10000 records")


@pytest.mark.parametrize("proxies", ["proxy.example", "192.0.2.1,192.0.2.256", "192.0.2.1/24", "*"])
def test_a_proxy_is_trusted_by_its_address(proxies: str) -> None:
    assert refusal({"BILLING_TRUSTED_PROXIES": proxies}).startswith("BILLING_TRUSTED_PROXIES: ")


@pytest.mark.parametrize(
    "hosts",
    [
        "billing.example:3000",
        "http://billing.example",
        "*",
        "*.example",
        "billing.example,,bad name",
        "-billing",
        "a" * 64,
        "billing..example",
        "2001:db8::1::",
        "[::1]:3000",
        "bücher.example",
        " , ",
    ],
)
def test_an_allowed_host_is_a_name_or_an_address_and_nothing_else(hosts: str) -> None:
    message = refusal({"BILLING_ALLOWED_HOSTS": hosts})
    assert message.startswith("BILLING_ALLOWED_HOSTS: ")
    assert "it must be host names or IP addresses without ports" in message


def test_any_host_may_be_named_unless_some_are_listed() -> None:
    assert load_settings({}).host_names == frozenset()
    assert load_settings({"BILLING_ALLOWED_HOSTS": "billing_service_1"}).host_names == {"billing_service_1"}


def test_the_bodies_being_received_have_room_for_the_largest_one() -> None:
    message = refusal({"BILLING_MAX_BODY_BYTES": "100000000"})
    assert message == (
        "BILLING_MAX_RECEIVING_BYTES: 67108864 is not valid: a body of BILLING_MAX_BODY_BYTES could never be received; "
        "it must be BILLING_MAX_BODY_BYTES (100000000) or more"
    )
    both = {"BILLING_MAX_BODY_BYTES": "100000000", "BILLING_MAX_RECEIVING_BYTES": "100000000"}
    assert load_settings(both).max_receiving_bytes == 100_000_000


def test_a_bad_store_is_refused_without_being_shown() -> None:
    message = refusal({"BILLING_RATE_LIMIT_STORE": "memcached://:s3cr3t@cache.example"})
    assert message.startswith("BILLING_RATE_LIMIT_STORE: its value (not shown) is not valid")


def test_a_bad_value_in_a_file_is_refused_too(working_folder: Path) -> None:
    (working_folder / ".env").write_text("BILLING_PORT=none\n")
    assert refusal({}).startswith("BILLING_PORT: 'none' is not valid")


def test_a_bad_override_is_named_by_its_variable() -> None:
    assert refusal({}, port=70000).startswith("BILLING_PORT: 70000 is not valid")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://billing:s3cr3t@db.example/billing",
        "s3cr3t",
        "https://s3cr3t",
        "postgresql:s3cr3t",
        "postgresql://billing:p/s3cr3t@db.example:5432/billing",  # a slash that should have been %2F
        "postgresql://billing@db.example:s3cr3t/billing",
    ],
)
def test_a_bad_database_url_is_refused_without_being_shown(url: str) -> None:
    message = refusal({"DATABASE_URL": url})
    assert message.startswith("DATABASE_URL: ")
    assert "postgresql://user:password@host:5432/database" in message


@pytest.mark.parametrize("env", ["staging", "production"])
def test_without_a_database_url_only_development_runs(env: str) -> None:
    message = refusal({"BILLING_ENV": env, "BILLING_DATA_DIR": "/data"})
    assert message.startswith("DATABASE_URL: it is not set")
    assert env in message


def test_the_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load_settings({}).port = 1  # type: ignore[misc]  # what is tested
