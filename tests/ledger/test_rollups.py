"""Rollups: the sums that summaries are read from."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from billing_client.contract.periods import PeriodUnit
from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.pool import Connection
from billing_service.ledger.rollups import read_groups
from tests.calls import get, given_customer, post, usage
from tests.ledgers import made_up_usage, record_all, summary_request

YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


async def periods(
    connection: Connection, time: tuple[datetime, datetime], unit: PeriodUnit, zone: str, limit: int = 1_000
) -> list[str]:
    """When the periods in which there is any usage begin."""
    rows = await read_groups(connection, "acme", summary_request(*time, unit, zone=zone), limit)
    return [row["period"].isoformat() for row in rows]


@pytest.mark.parametrize("unit", ["hour", "day", "month"])
async def test_all_time_is_as_long_as_there_was_usage(
    http: aiohttp.ClientSession, connection: Connection, unit: PeriodUnit
) -> None:
    await record_all(http, made_up_usage(200, 1))
    some = await periods(connection, YEAR, unit, "Asia/Kolkata")
    all_ = await periods(connection, (BEGINNING, END), unit, "Asia/Kolkata")
    assert 10 <= len(some) < len(all_) <= 200
    assert all_[-len(some) :] == some


@pytest.mark.parametrize("time", [YEAR, (BEGINNING, END)])
async def test_usage_that_was_voided_makes_no_group(
    http: aiohttp.ClientSession, connection: Connection, time: tuple[datetime, datetime]
) -> None:
    await given_customer(http)
    for day in (1, 2, 3):
        report = usage(eventId=str(day), occurredAt=f"2026-01-0{day}T12:00:00Z")
        record = (await post(http, "/usage", report)).require(201)
        if day == 2:
            await post(http, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "wrong"})
    assert await periods(connection, time, "day", "UTC") == ["2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00"]
    assert await periods(connection, time, "day", "UTC", limit=1) == ["2026-01-01T00:00:00+00:00"]


async def test_usage_beside_a_midnight_within_a_bucket_is_in_one_day(
    http: aiohttp.ClientSession, connection: Connection
) -> None:
    await given_customer(http)
    for day in (1, 3, 5):
        report = usage(eventId=str(day), occurredAt=f"2026-01-0{day}T22:30:00Z")
        (await post(http, "/usage", report)).require(201)
    assert await periods(connection, YEAR, "day", "Europe/Athens") == [
        f"2026-01-0{day}T22:00:00+00:00" for day in (1, 3, 5)
    ]


async def test_more_used_hours_than_are_read_at_once(connection: Connection) -> None:
    await connection.execute("""
        INSERT INTO customers VALUES ('acme', 'Acme', now(), now());
        INSERT INTO usage_rollups
        SELECT 'acme', 15, timestamptz '2000-01-01Z' + n * interval '4 hours', 'storage', 1, 1, 1
        FROM generate_series(1, 5000) n;
    """)
    hours = await periods(connection, (BEGINNING, END), "hour", "Asia/Kolkata", 10_000)
    assert len(hours) == len(set(hours)) == 5_000
    assert hours == sorted(hours)
    assert await periods(connection, (BEGINNING, END), "hour", "Asia/Kolkata", 4_500) == hours[:4_500]


async def test_a_cut_quarter_and_a_whole_one_are_read_at_one_moment(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    path = "/customers/acme/summary?from=2026-01-01T00:10:00Z&to=2026-01-01T00:30:00Z"  # records, and a sum
    seen: list[Any] = []

    async def watch() -> None:
        while not seen or seen[-1]["records"] < 400:
            seen.append((await get(http, path)).require(200)["total"])

    async def write(writer: int) -> None:
        for number in range(50):
            times = (f"2026-01-01T00:{minute}:00Z" for minute in ("12", "20"))
            pair = [usage(eventId=f"{writer} {number} {time}", occurredAt=time) for time in times]
            (await post(http, "/usage/batch", {"records": pair})).require(200)

    await asyncio.gather(*(watch() for _ in range(4)), *(write(writer) for writer in range(4)))
    assert {total["records"] % 2 for total in seen} == {0}, "a batch counts as a whole or not at all"
    assert seen[-1] == {"records": 400, "units": "600", "amount": "12"}
