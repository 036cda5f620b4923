"""A database that goes away: told as such within bounded time, and no restart is needed when it is back."""

import asyncio
import gc
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_service.database.migrations import migrate
from billing_service.database.pool import Connection, Database, DatabaseUnavailableError, unavailable_if_away
from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, key, post, stored, usage
from tests.databases import EmbeddedServer, address_of, embedded_server, execute, run, url_at
from tests.faults.proxy import Break, Proxy
from tests.services import Service, free_port, running_service

TIMEOUT = 5.0


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that the test may stop and kill; it does not run yet."""
    with embedded_server() as server:
        yield server


@pytest.fixture
def lonely_service(server: EmbeddedServer) -> Iterator[Service]:
    """A service that started while its database, a migrated one, was away."""
    settings = Settings(database_url=server.start(), database_timeout=TIMEOUT, read_timeout=TIMEOUT)
    run(migrate(settings))
    server.stop()
    with running_service(settings) as service:
        yield service


def assert_unavailable(answer: Answer) -> None:
    answer.problem("unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_service_starts_before_its_database_and_outlives_its_stop(
    server: EmbeddedServer, lonely_service: Service
) -> None:
    async with aiohttp.ClientSession(lonely_service.url) as http:
        for _ in range(2):
            (await get(http, "/healthz")).require(200)
            assert_unavailable(await get(http, "/readyz"))
            assert_unavailable(await get(http, "/customers"))
            assert_unavailable(await get(http, "/customers/acme/usage"))
            assert_unavailable(await post(http, "/customers", {"name": "Acme"}))
            assert_unavailable(await post(http, "/usage", usage()))
            assert_unavailable(await post(http, "/usage/batch", {"records": [usage()]}))
            server.start()
            (await get(http, "/readyz")).require(200)
            (await get(http, "/customers")).require(200)
            server.stop()


async def test_a_missing_database_is_an_outage(settings: Settings) -> None:
    missing = re.sub(r"/billing_\w+", "/not_there", settings.database_url or "")
    with running_service(msgspec.structs.replace(settings, database_url=missing)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            assert_unavailable(await get(http, "/readyz"))
            assert_unavailable(await get(http, "/customers"))
            assert_unavailable(await post(http, "/usage", usage()))
            assert_unavailable(await post(http, "/usage/batch", {"records": [usage()]}))


async def test_a_crash_of_the_database_loses_nothing_that_was_acknowledged(
    server: EmbeddedServer, lonely_service: Service
) -> None:
    server.start()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(lonely_service.url, connector=connector) as http:
        await given_customer(http)
        started = time.monotonic()
        crash = asyncio.get_running_loop().run_in_executor(None, kill_soon, server)
        answers = await asyncio.gather(*(report_until_refused(http, caller) for caller in range(20)))
        assert time.monotonic() - started < 2 * TIMEOUT + 10
        await crash
        server.start()
        (await get(http, "/readyz")).require(200)
        await assert_kept(http, [answer for of_caller in answers for answer in of_caller])
        for caller, of_caller in enumerate(answers):  # each caller's own retry of what was left unknown
            last = len(of_caller)
            (await post(http, "/usage", usage(eventId=f"{caller}-{last}"), key(f"{caller}-{last}"))).require(201)
        assert len(await stored(http, "acme")) == sum(map(len, answers)) + len(answers)


def kill_soon(server: EmbeddedServer) -> None:
    time.sleep(0.3)
    server.kill()


async def report_until_refused(http: aiohttp.ClientSession, caller: int) -> list[Answer]:
    """Report usage one after the other until the database is away; the answers that acknowledged."""
    answers: list[Answer] = []
    while True:
        name = f"{caller}-{len(answers)}"
        answer = await post(http, "/usage", usage(eventId=name), key(name))
        if answer.status != 201:
            assert_unavailable(answer)
            return answers
        answers.append(answer)


async def assert_kept(http: aiohttp.ClientSession, answers: list[Answer]) -> None:
    """Every record that was acknowledged is stored as it was told."""
    assert answers
    for answer in answers:
        assert (await get(http, answer.headers["Location"])).require(200) == answer.body


async def test_a_database_that_does_not_answer_is_told_in_bounded_time(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    impatient = Settings(database_url=settings.database_url, database_timeout=0.5)
    with running_service(impatient) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            async with connection.transaction():
                await connection.execute("LOCK TABLE usage_records, customers IN ACCESS EXCLUSIVE MODE")
                async with asyncio.timeout(20):
                    assert_unavailable(await post(http, "/usage", usage(), key("a call")))
                    assert_unavailable(await post(http, "/usage/batch", {"records": [usage()]}))
                    assert_unavailable(await get(http, "/customers/acme"))
            (await post(http, "/usage", usage(), key("a call"))).require(201)


async def test_a_database_that_falls_silent_is_told_in_bounded_time_and_needs_no_restart(
    server: EmbeddedServer, lonely_service: Service
) -> None:
    server.start()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(lonely_service.url, connector=connector) as http:
        await given_customer(http)
        await asyncio.gather(*(get(http, "/customers/acme") for _ in range(50)))  # the pool is full
        record = (await post(http, "/usage", usage())).require(201)
        calls = [
            get(http, "/readyz"),
            get(http, "/customers"),
            get(http, "/customers/acme/summary"),
            get(http, "/customers/acme/statement?month=2026-11"),
            post(http, "/customers", {"name": "Acme"}),
            post(http, "/usage/batch", {"records": [usage(eventId="batch")]}),
            post(http, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "a test"}),
            *(post(http, "/usage", usage(eventId=f"{n}")) for n in range(20)),
        ]
        with server.frozen():
            started = time.monotonic()
            answers = await asyncio.gather(*calls, get(http, "/healthz"))
            assert time.monotonic() - started < 2 * TIMEOUT  # and not so long for each step
        answers.pop().require(200)
        for answer in answers:
            assert_unavailable(answer)
        answers = await asyncio.gather(*(post(http, "/usage", usage(eventId=f"{n}"), key(f"{n}")) for n in range(20)))
        assert {answer.status for answer in answers} <= {201, 409}


async def test_connections_that_the_network_forgot_cost_one_call(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with Proxy(address_of(str(settings.database_url))) as proxy:
        proxied = url_at(str(settings.database_url), proxy.port)
        with running_service(Settings(database_url=proxied, database_timeout=1)) as service:
            async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
                await given_customer(http)
                await asyncio.gather(*(get(http, "/customers/acme") for _ in range(50)))
                assert len(proxy) > 1
                proxy.silence_all()
                assert_unavailable(await get(http, "/customers/acme"))
                for _ in range(10):
                    (await post(http, "/usage", usage(), key("a call"))).require(201)
                    (await get(http, "/customers/acme")).require(200)
                await asyncio.sleep(1.5)  # by then the forgotten ones are given up
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("single", [True, False])
async def test_a_connection_that_fell_silent_lets_none_be_trusted(settings: Settings, single: bool) -> None:
    """Single records have a connection of their own: what befalls it may have befallen the others, and as well."""
    first, second = [("/usage", usage()), ("/usage/batch", {"records": [usage(eventId="1")]})][:: 1 if single else -1]
    async with Proxy(address_of(str(settings.database_url))) as proxy:
        proxied = url_at(str(settings.database_url), proxy.port)
        with running_service(Settings(database_url=proxied, database_timeout=1)) as service:
            async with aiohttp.ClientSession(service.url) as http:
                await given_customer(http)
                (await post(http, "/usage", usage(eventId="before"))).require(201)
                (await post(http, "/usage/batch", {"records": [usage(eventId="before")]})).require(200)
                proxy.silence_all()
                assert_unavailable(await post(http, *first))
                assert (await post(http, *second)).status in (200, 201)


async def pid_of(connection: Connection) -> int:
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid


async def test_a_node_that_is_lost_costs_no_connection_to_another(settings: Settings) -> None:
    address = address_of(str(settings.database_url))
    async with Proxy(address) as here, Proxy(address) as there:
        nodes = [f"127.0.0.1:{proxy.port}" for proxy in (here, there)]
        url = url_at(str(settings.database_url), here.port).replace(nodes[0], ",".join(nodes))
        database = Database(Settings(database_url=url))
        await database.open()
        async with database.connection() as connection:  # to the first
            pooled = await pid_of(connection)
        ours, theirs = (database.kept_connection(partial(str, node)) for node in nodes)
        kept, lost = await ours.run(pid_of), await theirs.run(pid_of)
        there.requests.append(Break("reset"))
        with pytest.raises(DatabaseUnavailableError):
            await theirs.run(pid_of)
        lost, before = await theirs.run(pid_of), lost
        assert lost != before
        async with database.read_connection(near=nodes[1]) as connection:
            await pid_of(connection)
        there.requests.append(Break("reset"))
        with pytest.raises(DatabaseUnavailableError):
            async with database.read_connection(near=nodes[1]) as connection:
                await pid_of(connection)
        assert await theirs.run(pid_of) != lost  # what broke one connection to the node may have broken this one
        assert await ours.run(pid_of) == kept
        async with database.connection() as connection:
            assert await pid_of(connection) == pooled
        await database.close()


async def test_the_pool_and_one_connection_for_single_records_are_opened_and_no_more(
    settings: Settings, database_url: str
) -> None:
    few = Settings(database_url=settings.database_url, pool_size=3)
    with running_service(few) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            await given_customer(http)
            calls = [post(http, "/usage", usage(eventId=f"{n}")) for n in range(20)]
            batches = [post(http, "/usage/batch", {"records": [usage(eventId=f"in batch {n}")]}) for n in range(20)]
            answers = await asyncio.gather(*calls, *batches, *(get(http, "/customers/acme") for _ in range(50)))
            assert {answer.status for answer in answers} == {200, 201}
            opened = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing-service'"
            opened += " AND datname = current_database()"
            assert await execute(database_url, opened) == 3 + 1


async def test_more_calls_than_connections_wait_for_their_turn(settings: Settings) -> None:
    few = Settings(database_url=settings.database_url, pool_size=2)
    with running_service(few) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            await given_customer(http)
            answers = await asyncio.gather(*(get(http, "/customers/acme") for _ in range(100)))
            assert {answer.status for answer in answers} == {200}


async def test_connections_that_the_database_closed_are_replaced(
    http: aiohttp.ClientSession, database_url: str
) -> None:
    await given_customer(http)
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'billing-service'"
    ended += " AND datname = current_database()"
    assert await execute(database_url, ended) > 0
    async with asyncio.timeout(30):
        while (await get(http, "/customers/acme")).status != 200:
            pass


async def test_a_fault_that_no_retry_mends_is_told_as_the_services_own(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    await connection.execute("ALTER TABLE usage_records RENAME COLUMN service TO renamed")
    answer = await post(http, "/usage", usage())
    assert "renamed" not in str(answer.problem("internal_error"))
    await connection.execute("ALTER TABLE usage_records RENAME COLUMN renamed TO service")
    (await post(http, "/usage", usage())).require(201)


async def test_a_database_is_opened_before_it_is_used(settings: Settings) -> None:
    database = Database(settings)
    with pytest.raises(RuntimeError):
        async with database.connection():
            pass
    await database.close()


async def test_a_port_without_a_database(settings: Settings) -> None:
    database = Database(Settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none", database_timeout=2))
    await database.open()
    try:
        with pytest.raises(DatabaseUnavailableError):
            async with database.connection():
                pass
    finally:
        await database.close()


STATES = {
    "08006": True,
    "40001": True,
    "40P01": True,
    "53300": True,
    "55P03": True,
    "57P01": True,
    "57P03": True,
    "58030": True,
    "25006": True,
    "22003": False,
    "23505": False,
    "42601": False,
    "XX000": False,
}


@pytest.mark.parametrize(("state", "away"), STATES.items())
async def test_faults_are_told_apart_by_their_sqlstate(
    connection: "asyncpg.Connection[asyncpg.Record]", state: str, away: bool
) -> None:
    expected = DatabaseUnavailableError if away else asyncpg.PostgresError
    with pytest.raises(expected), unavailable_if_away():
        await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'a fault' USING ERRCODE = '{state}'; END $$")


@pytest.mark.parametrize("sign", ["connection marked as essential", "unexpected postmaster exit"])
async def test_a_worker_node_that_is_away_is_known_by_its_words(
    connection: "asyncpg.Connection[asyncpg.Record]", sign: str
) -> None:
    with pytest.raises(DatabaseUnavailableError), unavailable_if_away():
        await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION '{sign}' USING ERRCODE = 'XX000'; END $$")


async def test_writes_and_keys_do_not_wait_for_reads(settings: Settings) -> None:
    """However many reads hang, some connections are left for others."""
    database = Database(msgspec.structs.replace(settings, pool_size=3, database_timeout=2))
    await database.open()
    try:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(database.read_connection(is_large=True))
            with pytest.raises(DatabaseUnavailableError):
                async with database.read_connection():
                    pass
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1
        async with database.read_connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await database.close()


async def test_a_large_read_has_a_time_of_its_own(settings: Settings) -> None:
    database = Database(msgspec.structs.replace(settings, database_timeout=0.5, read_timeout=60))
    await database.open()
    try:
        async with database.read_connection(is_large=True) as connection:
            assert await connection.fetchval("SELECT 1 FROM pg_sleep(1)") == 1
        with pytest.raises(DatabaseUnavailableError):
            async with database.read_connection() as connection:
                await connection.fetchval("SELECT 1 FROM pg_sleep(10)")
    finally:
        await database.close()
