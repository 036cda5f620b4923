"""Large reads from a replica: which they are, and how far behind they say that they are."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import aiohttp
import pytest

from billing_service.__main__ import main
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.programs import run_main
from tests.replication import Replication, replicating_servers, url_of
from tests.scrapes import scrape
from tests.services import Service, free_port

LAG = "billing_read_database_lag_seconds"


@pytest.fixture(scope="module")
def servers() -> Iterator[Replication]:
    """A primary and its standby."""
    with replicating_servers() as servers:
        yield servers


@pytest.fixture
def settings(servers: Replication) -> Settings:
    """The settings of a service that has large reads from the standby."""
    database = servers.primary.create_database()
    replica = url_of(servers.standby.address, database=database)
    servers.standby.await_value(f"SELECT count(*)::integer FROM pg_database WHERE datname = '{database}'", 1)
    return Settings(
        database_url=url_of(servers.primary.address, database=database), read_database_url=replica, database_timeout=5
    )


async def exported(http: aiohttp.ClientSession) -> tuple[int, str | None]:
    """How many records an export has, and what it says of its lag."""
    async with http.get("/usage/export") as response:
        assert response.status == 200
        return len([json.loads(line) async for line in response.content]), response.headers.get("Replica-Lag")


async def counted(http: aiohttp.ClientSession) -> int:
    """How many records a summary of all customers counts."""
    answer = await get(http, "/summary")
    assert float(answer.headers["Replica-Lag"]) >= 0
    return sum(each["total"]["records"] for each in answer.require(200)["data"])


async def verified(settings: Settings) -> int:
    """How many records `verify` looks at."""
    report = await verify_ledger(settings.of_reads)
    assert report.differences == []
    return report.records


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(60):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def lag_of(http: aiohttp.ClientSession) -> float:
    return (await scrape(http)).value(LAG)


async def test_only_large_reads_come_from_the_replica_and_say_how_old_they_are(
    servers: Replication, settings: Settings, service: Service, http: aiohttp.ClientSession
) -> None:
    await given_customer(http)
    (await post(http, "/usage", usage(eventId="1"))).require(201)

    async def has(records: int) -> bool:
        return await counted(http) == records

    await until(partial(has, 1))
    assert (await exported(http))[0] == 1

    await asyncio.to_thread(servers.standby.execute, "SELECT pg_wal_replay_pause()")
    try:
        await given_customer(http, "new")
        (await post(http, "/usage", usage(customerId="new"))).require(201)

        async def lags() -> bool:
            return await lag_of(http) > 1

        await until(lags)
        assert await counted(http) == 1
        records, lag = await exported(http)
        assert (records, float(lag or 0) > 1) == (1, True)
        assert await verified(settings) == 1
        assert (await get(http, "/customers/new/summary")).require(200)["total"]["records"] == 1
        assert len((await get(http, "/customers/new/usage")).require(200)["data"]) == 1
        assert len((await get(http, "/customers")).require(200)["data"]) == 2
    finally:
        await asyncio.to_thread(servers.standby.execute, "SELECT pg_wal_replay_resume()")
    await until(partial(has, 2))
    assert await verified(settings) == 2


def test_verify_needs_the_replica_alone(servers: Replication, settings: Settings) -> None:
    nowhere = f"postgresql://127.0.0.1:{free_port()}/billing"
    environment = {"DATABASE_URL": nowhere, "BILLING_READ_DATABASE_URL": str(settings.read_database_url)}
    servers.standby.await_value("SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()", True)
    done = run_main(main, "verify", environment=environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    checked = "0 records, 0 sums, 0 pieces, 0 statements, 0 differences"
    assert f"the database that BILLING_READ_DATABASE_URL names: {checked}" in done.stdout


async def test_without_the_replica_the_rest_goes_on(
    servers: Replication, settings: Settings, service: Service, http: aiohttp.ClientSession
) -> None:
    await given_customer(http)
    servers.standby.stop()
    try:
        (await get(http, "/summary")).problem("unavailable")
        (await post(http, "/usage", usage())).require(201)
        (await get(http, "/readyz")).require(200)
        assert (await get(http, "/customers/acme/summary")).require(200)["total"]["records"] == 1
    finally:
        servers.standby.start()


def test_any_server_of_the_url_will_do() -> None:
    settings = Settings(database_url="postgresql://a", read_database_url="postgresql://b,c/d?sslmode=require")
    assert settings.of_reads.database_url == "postgresql://b,c/d?sslmode=require&target_session_attrs=any"
    assert Settings(read_database_url="postgresql://b").of_reads.database_url == (
        "postgresql://b?target_session_attrs=any"
    )
    chosen = "postgresql://b?target_session_attrs=standby"
    assert Settings(read_database_url=chosen).of_reads.database_url == chosen
    assert Settings(database_url="postgresql://a").of_reads == Settings(database_url="postgresql://a")


async def test_without_a_replica_nothing_says_lag(shared_http: aiohttp.ClientSession) -> None:
    assert "Replica-Lag" not in (await get(shared_http, "/summary")).headers
    assert (await exported(shared_http))[1] is None
