"""docker-compose.yml, beside the settings of the service that it runs."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from billing_service.database_url import parse_database_url
from billing_service.settings import Settings, load_settings

COMPOSE = yaml.safe_load((Path(__file__).parents[1] / "docker-compose.yml").read_text())
CONFIGURED = ["service", "migrate", "ha-service", "ha-migrate", "citus-service", "citus-migrate"]
HA_SERVICE = COMPOSE["services"]["ha-service"]
SERVICE = COMPOSE["services"]["service"]
# compose has a database of its own, the image listens on every address, and the port of the machine is mapped
DECIDED_BY_COMPOSE = {"DATABASE_URL", "BILLING_DATA_DIR", "BILLING_HOST", "BILLING_PORT"}
PASSED_ON = sorted(set(Settings.__struct_encode_fields__) - DECIDED_BY_COMPOSE)


def interpolated(environment: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """What docker-compose makes of the variables of a container, where it is given these."""

    def value(match: re.Match[str]) -> str:
        return given.get(match[1]) or match[2]

    return {name: re.sub(r"\$\{(\w+):-(.*?)\}", value, text) for name, text in environment.items()}


@pytest.mark.parametrize(
    "container", ["service", "migrate", "ha-service", "ha-migrate", "citus-service", "citus-migrate"]
)
@pytest.mark.parametrize("name", PASSED_ON)
def test_every_setting_is_passed_on(container: str, name: str) -> None:
    environment = COMPOSE["services"][container]["environment"]
    assert interpolated(environment, {name: "as given"})[name] == "as given"


def test_the_port_of_the_machine_is_a_setting() -> None:
    (port,) = SERVICE["ports"]
    assert interpolated({"port": port}, {"BILLING_PORT": "3001"}) == {"port": "127.0.0.1:3001:3000"}
    assert not DECIDED_BY_COMPOSE & {*SERVICE["environment"]} - {"DATABASE_URL"}


def test_a_start_without_any_setting_takes_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no .env lies
    settings = load_settings(interpolated(SERVICE["environment"], {}))
    assert settings == Settings(database_url=settings.database_url)


def test_a_stop_has_the_time_that_the_settings_give_it() -> None:
    settings = Settings()
    needed = settings.drain_delay + settings.shutdown_timeout + settings.database_timeout
    assert float(SERVICE["stop_grace_period"].removesuffix("s")) > needed


def test_two_servers_that_replicate_are_a_profile_of_their_own() -> None:
    started = {name for name, service in COMPOSE["services"].items() if "profiles" not in service}
    assert started == {"postgres", "migrate", "service"}
    settings = load_settings(interpolated(HA_SERVICE["environment"], {}))
    hosts = [host.name for host in parse_database_url(str(settings.database_url)).hosts]
    assert hosts == ["db1:5432", "db2:5432"]
    servers = [COMPOSE["services"][host.partition(":")[0]] for host in hosts]
    assert [(server["environment"]["NAME"], server["environment"]["OTHER"]) for server in servers] == [
        ("db1", "db2"),
        ("db2", "db1"),
    ]
    for server in servers:  # else it had the permissions of the volume, with which PostgreSQL does not start
        (volume,) = server["volumes"]
        assert server["environment"]["PGDATA"].startswith(volume.partition(":")[2] + "/")
    assert {key: HA_SERVICE[key] for key in ("ports", "stop_grace_period")} == {
        key: SERVICE[key] for key in ("ports", "stop_grace_period")
    }


def test_a_cluster_of_citus_is_a_profile_of_its_own() -> None:
    services = {
        name: service for name, service in COMPOSE["services"].items() if "citus" in service.get("profiles", ())
    }
    nodes = {name for name, service in services.items() if "volumes" in service}
    joined = " ".join(services["citus-join"]["entrypoint"])
    assert all(f"'{name}'" in joined for name in nodes)
    settings = load_settings(interpolated(services["citus-service"]["environment"], {}))
    hosts = [host.name for host in parse_database_url(str(settings.database_url)).hosts]
    assert hosts == ["citus-coordinator:5432", "citus-worker-1:5432", "citus-worker-2:5432"]
    assert {key: services["citus-service"][key] for key in ("ports", "stop_grace_period")} == {
        key: SERVICE[key] for key in ("ports", "stop_grace_period")
    }
