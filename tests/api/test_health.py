"""Liveness and readiness."""

import asyncio
import re

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, post, send, usage
from tests.databases import Server, execute
from tests.ledger.test_group_commit import writes_held_up
from tests.scrapes import scrape
from tests.services import free_port, running_service


async def test_a_service_with_its_database_is_alive_and_ready(http: aiohttp.ClientSession) -> None:
    assert (await get(http, "/healthz")).require(200) == {"status": "ok"}
    assert (await get(http, "/readyz")).require(200) == {"status": "ready"}


async def test_other_methods_are_refused(shared_http: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/readyz"):
        (await send(shared_http, "POST", path, {})).problem("method_not_allowed")


async def test_a_schema_that_is_behind_is_not_ready_until_it_is_migrated(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    version = await connection.fetchval("SELECT max(version) FROM schema_migrations")
    await connection.execute("DELETE FROM schema_migrations WHERE version = $1", version)
    answer = await get(http, "/readyz")
    assert "billing-service migrate" in answer.problem("unavailable")["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    (await get(http, "/healthz")).require(200)
    await connection.execute("INSERT INTO schema_migrations VALUES ($1, 'again', now())", version)
    (await get(http, "/readyz")).require(200)


async def test_a_schema_that_is_too_new_is_not_ready(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("INSERT INTO schema_migrations VALUES (9999, 'breaks', now(), true)")
    assert "too new for this program" in (await get(http, "/readyz")).problem("unavailable")["detail"]


async def test_a_machine_whose_clock_is_wrong_is_not_ready(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """It is the database's clock that is put forward here, by a function that is found before PostgreSQL's."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("CREATE SCHEMA wrong")
    await set_clock(connection, "interval '40 days'")
    await connection.execute(f'ALTER DATABASE "{name}" SET search_path = wrong, pg_catalog, public')
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            answer = await get(http, "/readyz")
            detail = answer.problem("unavailable")["detail"]
            assert re.search(r"clock of this machine is 345\d{4} seconds behind the database's", detail)
            assert int(answer.headers["Retry-After"]) > 0
            (await get(http, "/healthz")).require(200)
            assert (await scrape(http)).value("billing_clock_skew_seconds") == pytest.approx(-3_456_000, abs=30)
            await set_clock(connection, "interval '0'")
            (await get(http, "/readyz")).require(200)


async def test_a_service_that_has_not_read_the_databases_clock_yet_is_not_ready(
    database_server: Server, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The database is away when it starts: until it has read the clock it tells the time of its machine."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("CREATE SCHEMA wrong")
    await set_clock(connection, "interval '40 days'")
    await connection.execute(f'ALTER DATABASE "{name}" SET search_path = wrong, pg_catalog, public')
    allow = f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS'
    await execute(database_server.url, f"{allow} false", "SELECT 1")
    with running_service(settings) as service:
        await execute(database_server.url, f"{allow} true", "SELECT 1")
        async with aiohttp.ClientSession(service.url) as http, asyncio.timeout(30):
            while "clock" not in (await get(http, "/readyz")).problem("unavailable")["detail"]:  # noqa: ASYNC110 - no event tells of another thread's clock
                await asyncio.sleep(0.01)


async def set_clock(connection: "asyncpg.Connection[asyncpg.Record]", ahead: str) -> None:
    await connection.execute(
        "CREATE OR REPLACE FUNCTION wrong.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        f"$$ SELECT pg_catalog.clock_timestamp() + {ahead} $$"
    )


async def test_a_queue_without_room_is_not_ready(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with running_service(msgspec.structs.replace(settings, queue_records=1)) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            await given_customer(http)
            async with writes_held_up(connection):
                calls: list[asyncio.Task[Answer]] = []
                async with asyncio.timeout(30):
                    while (answer := await get(http, "/readyz")).status == 200:
                        report = post(http, "/usage", usage(eventId=f"{len(calls)}"))
                        calls.append(asyncio.create_task(report))
                        await asyncio.sleep(0.01)
                assert "queue" in answer.problem("unavailable")["detail"]
            await asyncio.gather(*calls)
            (await get(http, "/readyz")).require(200)


async def test_a_database_that_is_away_is_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    away = Settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with running_service(away) as service:
        async with aiohttp.ClientSession(service.url) as http:
            (await get(http, "/healthz")).require(200)
            answer = await get(http, "/readyz")
            assert "database" in answer.problem("unavailable")["detail"]
            assert int(answer.headers["Retry-After"]) > 0
    assert [record.name for record in caplog.records].count("billing_service.api.health") == 1  # which says more


async def test_an_empty_database_is_not_ready(empty_database_url: str) -> None:
    with running_service(Settings(database_url=empty_database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            (await get(http, "/healthz")).require(200)
            assert "version 0" in (await get(http, "/readyz")).problem("unavailable")["detail"]
