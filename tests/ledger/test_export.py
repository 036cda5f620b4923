"""The export: clients that keep up, are slow, stall or disconnect."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.pool import Database
from billing_service.ledger.export import CURSOR_RECORDS, PAGE_RECORDS, RecordStream, Selection
from billing_service.ledger.records import RecordFilter
from billing_service.settings import Settings
from tests.calls import given_customer, post, request_head, usage
from tests.services import ServeProcess, serve_process

ALL = Selection(None, BEGINNING, RecordFilter(END))
IN_TURNS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'billing-service' AND state LIKE 'idle in transaction%'"""
IN_USE = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'billing-service' AND state <> 'idle'"""
FILL = """INSERT INTO usage_records
    SELECT customer_id, sha256(convert_to(customer_id || n, 'UTF8')), n::text, 'service ' || n % 3, n, 0.5,
        timestamptz '2026-01-01Z' + n / 7 * interval '1 second', now(), NULL
    FROM customers CROSS JOIN generate_series(1, $1::integer) AS n"""


@asynccontextmanager
async def served(
    folder: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]", records: int, **settings: str
) -> AsyncIterator[tuple[ServeProcess, aiohttp.ClientSession]]:
    """The service as a process, and the records of two customers for it to export."""
    environment = {f"BILLING_{name}": value for name, value in settings.items()}
    with serve_process(folder, database_url, environment=environment) as process:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(process.url, timeout=timeout, read_bufsize=2**10) as http:
            for customer_id in ("a", "b"):
                await given_customer(http, customer_id)
            await connection.execute(FILL, records)
            yield process, http


async def awaited(connection: "asyncpg.Connection[asyncpg.Record]", sql: str, wanted: int) -> bool:
    """Whether a count comes to be what is wanted, within some seconds."""
    for _ in range(200):
        if await connection.fetchval(sql) == wanted:
            return True
        await asyncio.sleep(0.05)
    return False


def check(body: bytes, records: int) -> None:
    """Every record of both customers, once, in order."""
    lines = [json.loads(line) for line in body.splitlines()]
    keys = [(line["customerId"], line["occurredAt"], line["requestId"]) for line in lines]
    assert keys == sorted(keys)
    assert len({line["requestId"] for line in lines}) == len(lines) == 2 * records


async def test_a_request_for_the_head_alone_reads_no_record(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with served(tmp_path, database_url, connection, 1) as (process, http), connection.transaction():
        await connection.execute("LOCK TABLE usage_records IN ACCESS EXCLUSIVE MODE")
        async with http.head("/usage/export") as head:
            assert (head.status, head.content_type) == (200, "application/x-ndjson")
        reader, writer = await asyncio.open_connection(process.host, process.port)
        writer.write(request_head("HEAD", "/usage/export") + request_head("GET", "/healthz"))
        async with asyncio.timeout(5):  # for what is answered only once the service is done with the first
            assert await reader.readuntil(b'"ok"')
        writer.close()


async def test_more_than_one_cursor_reads(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    records = CURSOR_RECORDS + PAGE_RECORDS // 2
    async with served(tmp_path, database_url, connection, records) as (_, http), http.get("/usage/export") as response:
        check(await response.read(), records)
    await connection.execute("DELETE FROM usage_records WHERE event_id::integer > $1", CURSOR_RECORDS)
    async with served_again(tmp_path, database_url) as http, http.get("/usage/export") as response:
        check(await response.read(), CURSOR_RECORDS)


@asynccontextmanager
async def served_again(folder: Path, database_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    with serve_process(folder, database_url) as process:
        async with aiohttp.ClientSession(process.url) as http:
            yield http


async def test_a_reader_that_keeps_up_reads_from_a_cursor_and_one_that_stalls_gives_it_back(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with served(tmp_path, database_url, connection, 30_000) as (_, http), http.get("/usage/export") as response:
        body = b""
        turns = 0
        while not turns:  # a little at a time, and never a second without
            body += await response.content.read(200_000)
            turns = await connection.fetchval(IN_TURNS)
            assert not response.content.at_eof(), "no cursor was ever seen"
        assert await awaited(connection, IN_USE, 0), "a reader that stalls holds a connection"
        body += await response.content.read(2_000_000)
        assert await awaited(connection, IN_USE, 0)
        check(body + await response.read(), 30_000)


async def test_a_reader_that_never_stops_for_long_gets_no_more_than_a_turn(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A turn is half of the time that a call may have, so that it is never cut off."""
    settings = {"DATABASE_TIMEOUT": "3", "POOL_SIZE": "2"}
    async with served(tmp_path, database_url, connection, 20_000, **settings) as (_, http):

        async def read(pause: float) -> None:
            body = b""
            async with http.get("/usage/export") as response:
                while chunk := await response.content.read(100_000):
                    body += chunk
                    await asyncio.sleep(pause)
            check(body, 20_000)

        await asyncio.gather(read(0.05), read(0.1), read(0))


async def test_readers_that_read_nothing_cost_nothing_and_hold_no_connection(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with served(tmp_path, database_url, connection, 30_000, POOL_SIZE="2") as (process, http):
        memory = resident_bytes(process.service.process.pid)
        readers = [await open_reader(process.port) for _ in range(20)]
        for number in range(20):
            (await post(http, "/usage", usage(customerId="a", eventId=f"new {number}"))).require(201)
        assert await awaited(connection, IN_USE, 0)
        assert resident_bytes(process.service.process.pid) - memory < 60_000_000
        for _, writer in readers:
            writer.close()
        (await post(http, "/usage", usage(customerId="a", eventId="after"))).require(201)


async def test_readers_that_go_away_leave_nothing_behind(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with served(tmp_path, database_url, connection, 30_000, POOL_SIZE="4") as (process, http):
        (await post(http, "/usage", usage(customerId="a", eventId="first"))).require(201)
        pids = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'billing-service'"
        pids += " AND datname = current_database()"
        before = await connection.fetchval(pids)
        for number in range(30):
            reader, writer = await open_reader(process.port)
            await reader.read(1_000 * number)
            writer.close()
        assert await awaited(connection, IN_USE, 0)
        assert set(before) <= set(await connection.fetchval(pids)), "the other connections are left alone"
        async with http.get("/usage/export?customerId=b") as response:
            assert len((await response.read()).splitlines()) == 30_000


async def test_many_customers_with_nothing_to_read_take_more_than_a_turn(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with served(tmp_path, database_url, connection, 10, DATABASE_TIMEOUT="2") as (_, http):
        many = "INSERT INTO customers SELECT 'c' || n, 'name', now(), now() FROM generate_series(1, 10000) n"
        await connection.execute(many)
        async with http.get("/usage/export?from=2030-01-01T00:00:00Z") as response:
            assert await response.read() == b""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=database_url))
    await database.open()
    yield database
    await database.close()


async def test_reading_ends_with_the_block(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("INSERT INTO customers VALUES ('a', 'A', now(), now())")
    await connection.execute(FILL, 5_000)
    stream = RecordStream(database, ALL, lambda page: b"%d " % len(page))
    tasks = asyncio.all_tasks()
    async with stream.running():
        async for chunk in stream.chunks():
            assert chunk == b"500 "
            break
        (reading,) = asyncio.all_tasks() - tasks
    await asyncio.wait([reading], timeout=30)
    assert reading.done()
    assert database.use().busy == 0


async def test_a_turn_that_had_to_wait_for_a_connection_is_the_shorter(settings: Settings) -> None:
    few = Database(Settings(database_url=settings.database_url, pool_size=2, database_timeout=60))
    await few.open()
    try:
        async with few.connection(), few.connection():
            left = asyncio.create_task(time_left_to_a_turn(few))
            await asyncio.sleep(2)
        assert await left < 29
    finally:
        await few.close()


async def test_whoever_takes_it_gets_the_error_too(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("INSERT INTO customers VALUES ('a', 'A', now(), now())")
    await connection.execute(FILL, 5_000)
    stream = RecordStream(database, ALL, lambda page: b"%d" % (1 // (len(page) - PAGE_RECORDS)))
    async with stream.running():
        with pytest.raises(ZeroDivisionError):
            [chunk async for chunk in stream.chunks()]


async def time_left_to_a_turn(database: Database) -> float:
    async with database.turn() as (_, end):
        return end - asyncio.get_running_loop().time()


async def open_reader(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET /usage/export HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    return reader, writer


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
