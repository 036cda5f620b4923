"""What the service tells of the servers behind it: in its log, on `/metrics` and on `/readyz`."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from billing_service.database.pool import connected
from billing_service.database.replication import Durability, read_durability
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.databases import execute
from tests.replication import Replication, replicating_servers, url_of
from tests.scrapes import scrape
from tests.services import running_service

STANDBYS = "billing_database_synchronous_standbys"
SETTINGS = "billing_database_setting_on"


@pytest.fixture(scope="module")
def servers() -> Iterator[Replication]:
    """A primary and its standby."""
    with replicating_servers() as servers:
        yield servers


async def durability(url: str) -> Durability:
    async with connected(Settings(database_url=url)) as connection:
        return await read_durability(connection)


async def until_told(http: aiohttp.ClientSession, name: str, value: float, **labels: str) -> None:
    async with asyncio.timeout(30):
        while (await scrape(http)).value(name, **labels) != value:  # noqa: ASYNC110 - no event tells of a metric
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("names", "required"),
    [
        ("", 0),
        ("standby", 1),
        ("a, b", 1),
        ("*", 1),
        ("FIRST 2 (a, b, c)", 2),
        ("any 2(a, b)", 2),
        ("3 (a, b, c)", 3),
        ('"any 2 (x"', 1),
    ],
)
async def test_how_many_standbys_a_commit_waits_for_is_read_as_postgresql_does(
    servers: Replication, names: str, required: int
) -> None:
    await execute(servers.primary.url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT 1")
    await execute(servers.primary.url, "SELECT pg_reload_conf()")
    try:
        await asyncio.to_thread(servers.primary.await_value, "SHOW synchronous_standby_names", names)
        assert (await durability(servers.primary.url)).required == required
    finally:
        await asyncio.to_thread(servers.primary.replicate_synchronously, "")


async def test_a_role_that_may_not_see_the_standbys_says_so(servers: Replication) -> None:
    await execute(servers.primary.url, "CREATE ROLE modest LOGIN", "SELECT 1")
    url = servers.primary.url.replace("postgres@", "modest@")
    seen = await durability(url)
    assert (seen.attached, seen.timeline) == (None, 1)
    await execute(servers.primary.url, "GRANT pg_read_all_stats TO modest", "SELECT 1")
    assert (await durability(url)).attached == 0


@pytest.mark.parametrize(
    ("seen", "faults"),
    [
        (Durability(True, "on", 1, 1, 1), []),
        (Durability(True, "remote_apply", 1, 0, 0), []),
        (Durability(True, "local", 1, 0, 0), []),
        (Durability(True, "local", 1, 1, 1), ["synchronous_commit is local"]),
        (Durability(False, "off", 1, 0, 0), ["fsync is off", "synchronous_commit is off"]),
    ],
)
def test_what_lets_usage_be_lost_is_a_fault(seen: Durability, faults: list[str]) -> None:
    assert [fault.partition(":")[0] for fault in seen.faults] == faults


async def test_metrics_and_log_tell_of_standbys_and_settings(
    servers: Replication, caplog: pytest.LogCaptureFixture
) -> None:
    name = servers.primary.create_database()
    url = url_of(servers.primary.address, database=name)
    await execute(url, f"ALTER DATABASE {name} SET synchronous_commit = off", "SELECT 1")
    servers.primary.replicate_synchronously()
    with caplog.at_level("INFO"), running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            seen = await scrape(http)
            assert seen.value("billing_database_timeline") == 1
            assert seen.value(SETTINGS, setting="fsync") == 0  # as the tests' servers have it
            assert seen.value(SETTINGS, setting="synchronous_commit") == 0
            assert [seen.value(STANDBYS, kind=kind) for kind in ("required", "attached")] == [0, 1]
    sampler = "billing_service.telemetry.gauge_sampler"
    told = [record.getMessage() for record in caplog.records if record.name == sampler]
    assert "database: timeline 1, synchronous_commit off, 1 of 1 synchronous standbys" in told
    assert [message.split(":")[1] for message in told[1:]] == [" fsync is off", " synchronous_commit is off"]

    await execute(url, f"ALTER DATABASE {name} RESET synchronous_commit", "SELECT 1")
    with running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            assert (await scrape(http)).value(STANDBYS, kind="required") == 1
            servers.standby.stop()
            await until_told(http, STANDBYS, 0, kind="attached")
            servers.standby.start()
            await until_told(http, STANDBYS, 1, kind="attached")
    servers.primary.replicate_synchronously("")


async def until_ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(60):
        while (await get(http, "/readyz")).status != 200:  # noqa: ASYNC110 - no event tells of another server
            await asyncio.sleep(0.05)


async def test_a_server_that_takes_no_writes_is_not_ready(servers: Replication) -> None:
    name = servers.primary.create_database()
    url = url_of(servers.primary.address, database=name)
    standby = url_of(servers.standby.address, database=name)
    servers.standby.await_value(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'", 1)
    for leads_to_standby in (standby, f"{standby}?target_session_attrs=any"):
        with running_service(Settings(database_url=leads_to_standby)) as service:
            async with aiohttp.ClientSession(service.url) as http:
                assert "takes no writes" in (await get(http, "/readyz")).problem("unavailable")["detail"]
                (await post(http, "/customers", {"name": "Acme"})).problem("unavailable")

    await execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on", "SELECT 1")
    with running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            assert "takes no writes" in (await get(http, "/readyz")).problem("unavailable")["detail"]
            reset = f"ALTER DATABASE {name} RESET default_transaction_read_only"
            await execute(url, "SET default_transaction_read_only = off", reset, "SELECT 1")
            await post(http, "/customers", {"name": "Acme"})  # which may meet a connection that is replaced then
            await until_ready(http)
            await given_customer(http)
            (await post(http, "/usage", usage())).require(201)
