"""The sums that a bill is read from."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest

from billing_client.contract.periods import Grouping, PeriodUnit, period_labels
from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.pool import Database
from billing_service.ledger.rollups import Group, TooManyGroupsError, summarize
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.ledgers import made_up_usage, record_all

YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


async def groups_of(settings: Settings, start: datetime, end: datetime, grouping: Grouping, limit: int) -> list[Group]:
    database = Database(settings)
    await database.open()
    try:
        async with database.connection() as connection:
            return await summarize(connection, "acme", start, end, grouping, limit)
    finally:
        await database.close()


async def labels(
    settings: Settings, start: datetime, end: datetime, period: PeriodUnit, limit: int, zone: str = "Asia/Kolkata"
) -> list[str]:
    groups = await groups_of(settings, start, end, Grouping(False, period, zone), limit)
    return [period_labels(group.period, [period], ZoneInfo(zone))[period] for group in groups]


@pytest.mark.parametrize("period", ["hour", "day"])
async def test_all_time_is_as_long_as_there_was_usage(
    http: aiohttp.ClientSession, settings: Settings, period: PeriodUnit
) -> None:
    await record_all(http, made_up_usage(200, 1))
    some = await labels(settings, *YEAR, period, 1_000)
    all_ = await labels(settings, BEGINNING, END, period, 1_000)
    assert 100 < len(some) < len(all_) <= 200
    assert all_[-len(some) :] == some


@pytest.mark.parametrize("time", [YEAR, (BEGINNING, END)])
async def test_groups_are_counted_without_those_that_are_empty(
    http: aiohttp.ClientSession, settings: Settings, time: tuple[datetime, datetime]
) -> None:
    await given_customer(http)
    for day in (1, 2, 3):
        report = usage(eventId=str(day), occurredAt=f"2026-01-0{day}T12:00:00Z")
        record = (await post(http, "/usage", report)).require(201)
    await post(http, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "wrong"})
    assert await labels(settings, *time, "day", 2) == ["2026-01-01", "2026-01-02"]
    with pytest.raises(TooManyGroupsError):
        await labels(settings, *time, "day", 1)


async def test_sums_of_which_all_was_voided_take_the_place_of_no_group(
    http: aiohttp.ClientSession, settings: Settings
) -> None:
    await given_customer(http)
    for number in range(9):
        report = usage(service=f"service {number}", occurredAt="2026-01-01T12:00:00Z")
        record = (await post(http, "/usage", report)).require(201)
        if number < 7:
            await post(http, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "wrong"})
    groups = await groups_of(settings, *YEAR, Grouping(True, None, "UTC"), 2)
    assert [group.service for group in groups] == ["service 7", "service 8"]


async def test_usage_beside_a_midnight_within_a_bucket_is_in_one_day(
    http: aiohttp.ClientSession, settings: Settings
) -> None:
    await given_customer(http)
    for day in (1, 3, 5):
        report = usage(eventId=str(day), occurredAt=f"2026-01-0{day}T22:30:00Z")
        (await post(http, "/usage", report)).require(201)
    assert await labels(settings, *YEAR, "day", 3, "Europe/Athens") == ["2026-01-02", "2026-01-04", "2026-01-06"]
    with pytest.raises(TooManyGroupsError):
        await labels(settings, *YEAR, "day", 2, "Europe/Athens")


async def test_more_hours_than_groups_may_be_are_refused_before_they_are_read(
    http: aiohttp.ClientSession, settings: Settings
) -> None:
    await record_all(http, made_up_usage(200, 1))
    with pytest.raises(TooManyGroupsError):
        await labels(settings, BEGINNING, END, "hour", 20)


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
