"""Reads overviews from the sums of all customers, or of one."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import date, datetime

import asyncpg

from billing_client.contract.decimals import total
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.overviews.calendars import Calendar
from billing_service.ledger.overviews.customer_lines import names_of
from billing_service.ledger.overviews.structs import Comparison, CustomerChange, DayTotal, Overview
from billing_service.ledger.periods import BUCKETS, floor

_QUERIES = load_queries("overviews")
_QUARTER = min(BUCKETS)
NAMED_SERVICES = 7  # are told apart; a chart of more is hard to read
CHANGED_CUSTOMERS = 10


async def read_overview(connection: Connection, customer_id: str | None, calendar: Calendar) -> Overview:
    """Read an overview, within a transaction of one snapshot. Raises what asyncpg raises."""
    return await read_month(connection, customer_id, calendar, await _compare(connection, customer_id, calendar))


async def read_month(
    connection: Connection, customer_id: str | None, calendar: Calendar, comparison: Comparison
) -> Overview:
    """Read this month, beside a comparison that was read before. Raises what asyncpg raises."""
    bounds = calendar.bounds[calendar.first :]
    rows = await connection.fetch(_QUERIES["totals_by_day"], calendar.minutes, bounds, NAMED_SERVICES, customer_id)
    days = _day_totals(rows, calendar.days[calendar.first :], bounds, bounds)
    recent_to = floor(calendar.now, _QUARTER)
    recent = (recent_to - _QUARTER, recent_to)
    month = (bounds[0], bounds[-1], customer_id)
    credited = await connection.fetchrow(_QUERIES["credited_from"], calendar.minutes, *month)
    voided = await connection.fetchrow(_QUERIES["voided_from"], *month)
    services = {service for day in days for service in day.services}
    return Overview(
        calendar=calendar,
        this_month=days,
        services=sorted(service for service in services if service is not None) + [None] * (None in services),
        recent=await connection.fetchval(_QUERIES["records_from"], *recent, customer_id),
        recent_from=recent[0],
        recent_to=recent[1],
        credits=_sums(credited),
        voided=_sums(voided),
        comparison=comparison,
    )


async def _compare(connection: Connection, customer_id: str | None, calendar: Calendar) -> Comparison:
    bounds = calendar.bounds[: calendar.first + 1]
    cuts = sorted({*bounds, calendar.comparable})
    rows = await connection.fetch(_QUERIES["sums_by_day"], calendar.minutes, cuts, customer_id)
    month = (bounds[0], bounds[-1], calendar.days[0], customer_id)
    return Comparison(
        as_of=calendar.now,
        comparable=calendar.comparable,
        days=_day_totals(rows, calendar.days[: calendar.first], bounds, cuts),
        before=total(row["amount"] for row in rows if cuts[row["day"] - 1] < calendar.comparable),
        to_issue=await connection.fetchval(_QUERIES["to_issue"], calendar.minutes, *month),
        changed=[] if customer_id is not None else await _most_changed(connection, calendar),
    )


def _sums(row: asyncpg.Record | None) -> tuple[int, str]:
    return (0, "0") if row is None else (row["records"], row["amount"])


def _day_totals(
    rows: Sequence[asyncpg.Record], days: Sequence[date], bounds: Sequence[datetime], cuts: Sequence[datetime]
) -> list[DayTotal]:
    """The totals of each day, from rows by day and service; a day that was cut in two has rows of both its parts."""
    by_day: list[list[asyncpg.Record]] = [[] for _ in days]
    for row in rows:
        by_day[bisect_right(bounds, cuts[row["day"] - 1]) - 1].append(row)
    totals = []
    for day, found in zip(days, by_day, strict=True):
        services: dict[str | None, str] = {}
        for row in found:
            services[row["service"]] = total([services.get(row["service"], "0"), row["amount"]])
        totals.append(DayTotal(day, sum(row["records"] for row in found), total(services.values()), services))
    return totals


async def _most_changed(connection: Connection, calendar: Calendar) -> list[CustomerChange]:
    bounds = calendar.bounds
    span = (bounds[0], calendar.comparable, bounds[calendar.first], bounds[-1])
    rows = await connection.fetch(_QUERIES["most_changed"], *span, CHANGED_CUSTOMERS, calendar.minutes)
    names = await names_of(connection, [row["customer_id"] for row in rows])
    return [CustomerChange(row["customer_id"], names[row["customer_id"]], row["before"], row["after"]) for row in rows]
