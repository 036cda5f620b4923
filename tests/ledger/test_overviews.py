"""Overviews: which days and moments are compared, what the forecast is made of, and that nothing is left out."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import aiohttp
import asyncpg
import pytest

from billing_client.contract.decimals import total
from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.ledger.overviews.calendars import calendar_of
from billing_service.ledger.overviews.customer_lines import customer_lines, search_customers
from billing_service.ledger.overviews.keeping import Overviews
from billing_service.ledger.overviews.reading import NAMED_SERVICES, read_overview
from billing_service.ledger.overviews.structs import Comparison, DayTotal, Overview
from billing_service.settings import Settings
from tests.calls import given_customer, post, usage

NOW = datetime(2026, 11, 28, 10, 40, tzinfo=UTC)


async def given(
    connection: "asyncpg.Connection[asyncpg.Record]", *rollups: tuple[str, str, datetime, int, str]
) -> None:
    """Store sums: customer, service, bucket, records, amount."""
    for customer in {rollup[0] for rollup in rollups}:
        await connection.execute("INSERT INTO customers VALUES ($1, upper($1), now(), now())", customer)
    for customer, service, bucket, records, amount in rollups:
        for minutes in (15, 180):
            start = bucket - (bucket - datetime(2000, 1, 1, tzinfo=UTC)) % timedelta(minutes=minutes)
            await connection.execute(
                "INSERT INTO usage_rollups AS r (customer_id, bucket_minutes, bucket, service, records, units, amount)"
                " VALUES ($1, $2, $3, $4, $5, 1, $6) ON CONFLICT (customer_id, bucket_minutes, bucket, service)"
                " DO UPDATE SET records = r.records + excluded.records, amount = r.amount + excluded.amount",
                *(customer, minutes, start, service, records, Decimal(amount)),
            )


def test_a_calendar_is_two_months_of_a_zone() -> None:
    calendar = calendar_of(NOW, "UTC")
    assert (calendar.days[0], calendar.days[-1]) == (date(2026, 10, 1), date(2026, 11, 30))
    assert (calendar.days[calendar.first], calendar.days[calendar.today]) == (date(2026, 11, 1), date(2026, 11, 28))
    assert calendar.minutes == 180
    assert calendar.comparable == datetime(2026, 10, 28, 9, tzinfo=UTC)
    berlin = calendar_of(NOW, "Europe/Berlin")
    assert berlin.minutes == 15
    assert berlin.comparable == datetime(2026, 10, 28, 10, 30, tzinfo=UTC), "11:40 on the clock there, rounded down"


def test_the_31st_is_compared_with_the_whole_of_a_shorter_month() -> None:
    calendar = calendar_of(datetime(2026, 3, 31, 12, tzinfo=UTC), "UTC")
    assert calendar.comparable == datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_month_is_beside_the_one_before(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await given(
        connection,
        ("a", "storage", datetime(2026, 9, 30, 23, 45, tzinfo=UTC), 9, "900"),
        ("a", "storage", datetime(2026, 10, 28, 6, tzinfo=UTC), 1, "1.000000000000000001"),
        ("a", "storage", datetime(2026, 10, 28, 9, tzinfo=UTC), 1, "2"),
        ("a", "compute", datetime(2026, 11, 1, tzinfo=UTC), 3, "4.5"),
        ("b", "compute", datetime(2026, 11, 28, 10, 15, tzinfo=UTC), 90, "16"),
    )
    overview = await read_overview(connection, None, calendar_of(NOW, "UTC"))
    october, november = overview.comparison.days, overview.this_month
    assert [(day.day.day, day.amount) for day in october if day.records] == [(28, "3.000000000000000001")]
    assert [(day.day.day, day.services) for day in november if day.records] == [
        (1, {"compute": "4.5"}),
        (28, {"compute": "16"}),
    ]
    assert overview.comparison.before == "1.000000000000000001", "until the same moment"
    assert (overview.recent, overview.recent_to) == (90, datetime(2026, 11, 28, 10, 30, tzinfo=UTC))
    assert [(each.customer_id, each.name, each.difference) for each in overview.comparison.changed] == [
        ("b", "B", "16"),
        ("a", "A", "3.499999999999999999"),
    ]
    alone = await read_overview(connection, "a", calendar_of(NOW, "UTC"))
    assert (sum(day.records for day in alone.days), alone.recent, alone.comparison.changed) == (5, 0, [])


async def test_credits_and_voids_are_told(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    records = [
        (await post(http, "/usage", usage(eventId=str(n), unitsConsumed=units, pricePerUnit="0.5"))).require(201)
        for n, units in enumerate(("10", "-3", "4"))
    ]
    path = f"/customers/acme/usage/{records[2]['requestId']}/void"
    (await post(http, path, {"reason": "a test"})).require(200)
    for customer in (None, "acme"):
        overview = await read_overview(connection, customer, calendar_of(datetime.now(UTC), "UTC"))
        assert (overview.credits, overview.voided) == ((1, "-1.5"), (1, "2"))
        assert overview.this_month[overview.calendar.today - overview.calendar.first].amount == "3.5"
    other = await read_overview(connection, "nobody", calendar_of(datetime.now(UTC), "UTC"))
    assert (other.credits, other.voided) == ((0, "0"), (0, "0"))


async def test_services_beyond_the_named_are_one(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    day = datetime(2026, 11, 3, tzinfo=UTC)
    await given(connection, *(("a", f"s{n}", day, 1, str(n)) for n in range(1, 11)))
    overview = await read_overview(connection, None, calendar_of(NOW, "Asia/Kolkata"))
    assert overview.services == [*sorted(f"s{n}" for n in range(10, 10 - NAMED_SERVICES, -1)), None]
    assert next(day for day in overview.days if day.records).services[None] == "6"


def _overview(amounts: dict[date, str], now: datetime) -> Overview:
    calendar = calendar_of(now, "UTC")
    days = [
        DayTotal(day, int(day in amounts), amounts.get(day, "0"), {None: amounts.get(day, "0")})
        for day in calendar.days
    ]
    return Overview(
        calendar=calendar,
        this_month=days[calendar.first :],
        services=[None],
        recent=0,
        recent_from=now,
        recent_to=now,
        credits=(0, "0"),
        voided=(0, "0"),
        comparison=Comparison(now, calendar.comparable, days[: calendar.first], "0", 0, []),
    )


def test_a_forecast_is_what_is_billed_and_the_mean_of_a_week_for_the_rest() -> None:
    amounts = {date(2026, 11, day): "7" for day in range(20, 28)} | {date(2026, 11, 28): "1"}
    forecast = _overview(amounts, datetime(2026, 11, 28, 12, tzinfo=UTC)).forecast(2)
    assert (forecast.billed, forecast.mean, forecast.left) == ("57", "7.00", timedelta(days=2, hours=12))
    assert (forecast.mean_from, forecast.mean_to) == (date(2026, 11, 21), date(2026, 11, 27))
    assert forecast.amount == "74.50"


def test_a_forecast_does_not_count_the_days_before_the_first_usage() -> None:
    forecast = _overview({date(2026, 11, 27): "10"}, datetime(2026, 11, 28, tzinfo=UTC)).forecast(0)
    assert (forecast.mean_from, forecast.mean, forecast.amount) == (date(2026, 11, 27), "10", "40")
    assert _overview({}, NOW).forecast(2).amount == "0.00"


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [("0.005", "0.01"), ("-0.005", "-0.01"), ("152415787532388367504953515625666819427.835", None)],
)
def test_a_forecast_is_rounded_once_and_to_the_cent(amount: str, rounded: str | None) -> None:
    last = datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC)
    expected = rounded or "152415787532388367504953515625666819427.84"
    assert _overview({date(2026, 11, 1): amount}, last).forecast(2).amount == expected


async def test_lines_of_customers_have_their_days(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await given(
        connection,
        ("a", "storage", datetime(2026, 11, 2, tzinfo=UTC), 2, "3"),
        ("a", "compute", datetime(2026, 11, 2, tzinfo=UTC), 1, "4"),
        ("a", "compute", datetime(2026, 10, 2, tzinfo=UTC), 1, "5"),
        ("b", "compute", datetime(2026, 10, 30, tzinfo=UTC), 1, "6"),
    )
    found = await search_customers(connection, "", "", 10)
    first, second = await customer_lines(connection, found, calendar_of(NOW, "UTC"))
    assert (first.name, first.records, first.amount, first.before) == ("A", 3, "7", "5")
    assert [(n, amount) for n, amount in enumerate(first.days) if amount != "0"] == [(1, "5"), (32, "7")]
    assert (second.amount, second.before) == ("0", "0")


async def test_a_search_takes_letters_as_they_are(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for id_, name in (("a_1", "100 % Ähre"), ("ab1", "Other")):
        await connection.execute("INSERT INTO customers VALUES ($1, $2, now(), now())", id_, name)
    assert await search_customers(connection, "A_", "", 9) == [("a_1", "100 % Ähre")]
    assert await search_customers(connection, "0 %", "", 9) == [("a_1", "100 % Ähre")]
    assert await search_customers(connection, "", "a_1", 9) == [("ab1", "Other")]
    assert await search_customers(connection, "oth", "", 9, only="ab1") == [("ab1", "Other")]
    assert await search_customers(connection, "100", "", 9, only="ab1") == []


@pytest.mark.parametrize(("quick", "is_kept"), [(3600.0, False), (0.0, True)], ids=["few sums", "many sums"])
async def test_this_month_is_always_new_and_what_it_is_compared_with_says_as_of_when(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", quick: float, is_kept: bool
) -> None:
    now = datetime.now(UTC)
    before = now.replace(day=1) - timedelta(days=15)
    await given(connection, ("a", "storage", now, 1, "1"), ("a", "storage", before, 1, "10"))
    database = Database(settings)
    await database.open()
    overviews = Overviews(database, Clock(), quick_seconds=quick)
    first = await overviews.read(None, "UTC")
    await connection.execute("UPDATE usage_rollups SET amount = amount + 1")
    assert await overviews.read(None, "UTC") == first, "kept for a moment"
    second = await overviews.read(None, "UTC", fresh=True)
    assert total(day.amount for day in second.this_month) == "2"
    assert (second.comparison == first.comparison) == is_kept
    assert total(day.amount for day in second.comparison.days) == ("10" if is_kept else "11")
    assert second.comparison.as_of <= second.calendar.now
    for _ in range(600):
        newest = await overviews.read(None, "UTC", fresh=True)
        if newest.comparison.as_of > second.comparison.as_of:
            break
        await asyncio.sleep(0.05)
    assert total(day.amount for day in newest.comparison.days) == "11"
    await overviews.close()
    await database.close()
