"""The worker: it prepares what is over, what is late, and first what somebody waits for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.ledger.statements.refreshing import Progress
from billing_service.ledger.statements.worker import PieceWorker
from billing_service.pace import Pace
from billing_service.settings import Settings
from tests.calls import get, given_customer, post
from tests.ledger.statements.test_pieces import january
from tests.ledgers import record_all
from tests.services import running_service
from tests.statements import record

BUCKETS = "SELECT array_agg(DISTINCT bucket ORDER BY bucket) FROM usage_pieces"
RUNS = "SELECT count(*) FROM usage_pieces"
PREPARED = "SELECT coalesce(sum(records), 0) FROM usage_pieces"


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


async def until_value(connection: Any, query: str, holds: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds(await connection.fetchval(query)):  # noqa: ASYNC110 - no event tells of the worker
            await asyncio.sleep(0.02)


async def test_it_prepares_what_is_over_and_leaves_the_running_hours_alone(
    http: aiohttp.ClientSession,
    connection: "asyncpg.Connection[asyncpg.Record]",
    database: Database,
) -> None:
    now = datetime.now(UTC)
    await given_customer(http)
    for age in (timedelta(0), timedelta(hours=9), timedelta(days=40)):
        await record(http, str(age), (now - age).isoformat())
    pace = Pace(first_round_seconds=0.0, round_seconds=0.05, full_round_seconds=0.1, piece_age=timedelta(0))
    preparing = PieceWorker(database, Clock(), processes=1, pace=pace)
    preparing.start()
    try:
        await until_value(connection, RUNS, lambda count: count == 2)
        found = await connection.fetchval(BUCKETS)
        assert all(bucket < now - timedelta(hours=4) for bucket in found)
        await record(http, "late", (now - timedelta(days=40)).isoformat())
        await until_value(connection, RUNS, lambda count: count == 3)
    finally:
        await preparing.stop()


async def test_a_month_that_is_too_large_to_be_read_at_once_is_prepared_while_its_reader_waits(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> None:
    await record_all(http, january(120, seed=1))
    path = "/customers/acme/statement?month=2026-01"
    with running_service(settings, pace=Pace(statement_records=50)) as service:
        async with aiohttp.ClientSession(service.url) as reader:
            answer = await get(reader, path)
            assert answer.require(202) == {"records": 120, "prepared": 0}
            assert answer.headers["Retry-After"] == "1"
            await until_value(connection, PREPARED, lambda records: records == 120)
            assert (await get(reader, path)).require(200)["total"]["records"] == 120


class Noted(PieceWorker):
    """Notes whose usage it prepares, and lets somebody wait for the last customer's while it is at the first."""

    whose: tuple[str, ...] = ()

    async def _slice(self, customer_id: str, start: datetime, end: datetime, *, pause: float = 0.0) -> Progress | None:
        if not self.whose:
            self.want("c", start, end)
        self.whose += (customer_id,)
        return await super()._slice(customer_id, start, end, pause=pause)


async def test_what_somebody_waits_for_comes_first_however_much_an_older_version_left_to_prepare(
    http: aiohttp.ClientSession, database: Database
) -> None:
    for customer in ("a", "b", "c"):
        await given_customer(http, customer)
        await record(http, "old", "2024-03-05T00:00:00Z", customerId=customer)
    worker = Noted(database, Clock(), processes=1)
    await worker._part_of_full_round()
    assert worker.whose[:3] == ("a", "c", "b")


async def test_issuing_prepares_what_it_needs(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await record_all(http, january(120, seed=1))
    issued = (await post(http, "/customers/acme/statements", {"month": "2026-01"})).require(201)
    assert issued["total"]["records"] == 120
    assert await connection.fetchval(PREPARED) == 120
