"""Prepared dimensions: their sums, and how those of before are filled."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest
from msgspec import structs

from billing_client.contract.periods import Grouping, SummaryRequest
from billing_service.database.pool import Connection
from billing_service.ledger.dimension_groups import reads_records
from billing_service.ledger.dimensions import add_dimension, list_dimensions, remove_dimension
from billing_service.ledger.summaries import summarize_customer
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.services import running_service

FIRST = datetime(2026, 3, 1, tzinfo=UTC)


def made_up(count: int, seed: int, customer: str = "acme") -> list[dict[str, Any]]:
    """Usage of three services and models over three days; a fifth of it has no model, a tenth is credits."""
    draw = random.Random(seed)
    models = ("large", "small", "tiny", "huge")
    return [
        usage(
            customerId=customer,
            eventId=f"{seed}-{n}",
            service=draw.choice(("compute", "requests", "storage")),
            unitsConsumed=str(draw.randrange(1, 100) * (-1 if n % 10 == 0 else 1)),
            dimensions={"model": draw.choice(models), "n": str(n % 3)} if n % 5 else None,
            occurredAt=(FIRST + timedelta(seconds=draw.randrange(3 * 86_400))).isoformat(),
        )
        for n in range(count)
    ]


async def record(http: aiohttp.ClientSession, usages: list[dict[str, Any]]) -> list[str]:
    results = (await post(http, "/usage/batch", {"records": usages})).require(200)["results"]
    return [result["record"]["requestId"] for result in results]


async def fill(connection: Any, name: str = "model") -> list[tuple[int, int]]:
    return [progress async for progress in add_dimension(connection, name)]


def asked(*names: str, zone: str = "UTC", **filters: str) -> list[SummaryRequest]:
    """Summaries by dimensions, with and without service, of spans with and without edges between the buckets."""
    spans = [(FIRST, FIRST + timedelta(days=3)), (FIRST + timedelta(minutes=7), FIRST + timedelta(days=2, hours=5))]
    return [
        SummaryRequest(*span, None, None, Grouping(service, unit, zone, names), ("x",), tuple(filters.items()))
        for span in spans
        for service in (False, True)
        for unit in (None, "day")
    ]


async def assert_both_agree(connection: Connection, customer: str = "acme") -> None:
    """The sums of the dimension say what the records say."""
    requests = [*asked("model"), *asked("model", zone="Asia/Kathmandu"), *asked(model="large")]
    for request in [*requests, *asked("model", model="small", zone="Europe/Berlin")]:
        assert not await reads_records(connection, request)
        prepared = await summarize_customer(connection, customer, request, 1_000)
        await connection.execute("UPDATE prepared_dimensions SET filled_at = NULL")
        assert await reads_records(connection, request)
        recomputed = await summarize_customer(connection, customer, request, 1_000)
        await connection.execute("UPDATE prepared_dimensions SET filled_at = now()")
        assert prepared == recomputed, request


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_what_was_there_and_what_comes_is_summed_up(
    http: aiohttp.ClientSession, owner: Any, settings: Settings
) -> None:
    for customer in ("acme", "beta"):
        await given_customer(http, customer)
    ids = await record(http, made_up(300, 1))
    assert await fill(owner) == [(1, 2), (2, 2)]
    assert await fill(owner) == []
    await assert_both_agree(owner)
    ids += await record(http, made_up(200, 2))
    (await post(http, "/usage", usage(dimensions={"model": "large"}))).require(201)
    for id_ in ids[:60]:
        (await post(http, f"/customers/acme/usage/{id_}/void", {"reason": "a test"})).require(200)
    await record(http, made_up(5, 3, "beta"))
    await assert_both_agree(owner)
    report = await verify_ledger(settings)
    assert report.differences == []
    await owner.execute("UPDATE dimension_rollups SET credit_units = credit_units - 1 WHERE bucket_minutes = 1440")
    assert all("sum by model = " in line for line in (await verify_ledger(settings)).differences)
    assert await remove_dimension(owner, "model")
    assert not await remove_dimension(owner, "model")
    assert await owner.fetchval("SELECT count(*) FROM dimension_rollups") == 0
    assert (await verify_ledger(settings)).differences == []


async def test_usage_is_recorded_and_voided_while_it_is_filled(
    http: aiohttp.ClientSession, owner: Any, settings: Settings
) -> None:
    await given_customer(http)
    ids = await record(http, made_up(200, 1))

    async def go_on() -> None:
        for number in range(10):
            await asyncio.gather(
                record(http, made_up(10, 100 + number)),
                post(http, "/usage", made_up(1, 1_000 + number)[0] | {"dimensions": {"model": "large"}}),
                *(post(http, f"/customers/acme/usage/{id_}/void", {"reason": "a"}) for id_ in ids[number::40]),
            )

    going_on = asyncio.create_task(go_on())
    await fill(owner)
    await going_on
    await assert_both_agree(owner)
    assert (await verify_ledger(settings)).differences == []
    assert await owner.fetchval("SELECT count(*) FROM usage_voids") > 0


async def test_a_filling_that_was_stopped_goes_on(http: aiohttp.ClientSession, owner: Any) -> None:
    for customer in ("acme", "beta", "gamma"):
        await given_customer(http, customer)
        await record(http, made_up(20, 1, customer))
    filling = add_dimension(owner, "model")
    assert await anext(filling) == (1, 3)
    await filling.aclose()
    (found,) = await list_dimensions(owner)
    assert (found.name, found.filled_at, found.done, found.customers) == ("model", None, 1, 3)
    assert await fill(owner) == [(2, 3), (3, 3)]
    for customer in ("acme", "beta", "gamma"):
        await assert_both_agree(owner, customer)


@pytest.mark.parametrize(
    ("names", "advice"), [(["model"], "dimensions add model"), (["model", "n"], "dimensions list")]
)
async def test_too_much_to_add_up_says_what_to_do(
    settings: Settings, owner: Any, names: list[str], advice: str
) -> None:
    group_by = ",".join(f"dimension.{name}" for name in names)
    with running_service(structs.replace(settings, read_timeout=1)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            async with owner.transaction():
                await owner.execute("LOCK TABLE usage_records IN ACCESS EXCLUSIVE MODE")  # a read that takes too long
                answer = await get(http, f"/customers/acme/summary?groupBy={group_by}")
    assert advice in answer.problem("summary_too_large")["detail"]
