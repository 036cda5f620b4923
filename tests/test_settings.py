"""The settings: where they come from, and what a bad one says."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from billing_service.settings import Rate, Settings, SettingsError, load_settings

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
            "BILLING_QUEUE_RECORDS": "50",
            "BILLING_MAX_REQUESTS": "60",
            "BILLING_REQUESTS_PER_KEY": "600/m",
            "BILLING_RECORDS_PER_KEY": "10000/s",
            "BILLING_REQUESTS_PER_ADDRESS": "5/h",
            "BILLING_RECORDS_PER_ADDRESS": "999999999/d",
            "BILLING_RATE_LIMIT_STORE": "redis://:s3cr3t@cache.example:6379/1",
            "BILLING_TRUSTED_PROXIES": "192.0.2.1, 2001:db8::/64",
            "BILLING_LOG_FORMAT": "console",
            "BILLING_LOG_LEVEL": "error",
            "BILLING_TRACES": "otlp",
        }
    )
    assert settings == Settings(
        env="production",
        database_url=SECRET_URL,
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
        queue_records=50,
        max_requests=60,
        requests_per_key="600/m",
        records_per_key="10000/s",
        requests_per_address="5/h",
        records_per_address="999999999/d",
        rate_limit_store="redis://:s3cr3t@cache.example:6379/1",
        trusted_proxies="192.0.2.1, 2001:db8::/64",
        log_format="console",
        log_level="error",
        traces="otlp",
    )
    assert settings.database_url is not None
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


def test_a_file_does_not_choose_another_env(working_folder: Path) -> None:
    (working_folder / ".env").write_text("BILLING_ENV=production\nBILLING_PORT=3001\n")
    settings = load_settings({})
    assert (settings.env, settings.port) == ("development", 3001)


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


def test_a_bad_store_is_refused_without_being_shown() -> None:
    message = refusal({"BILLING_RATE_LIMIT_STORE": "memcached://:s3cr3t@cache.example"})
    assert message.startswith("BILLING_RATE_LIMIT_STORE: what it holds (not shown) is not valid")


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
