"""Overviews for people: two months beside each other, by day and service, and the customers that changed most."""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence
from contextvars import Context
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Struct

from billing_client.contract.decimals import difference, total
from billing_client.contract.periods import DAY, day_at, start_of_day
from billing_service.database.clock import Clock
from billing_service.database.pool import Connection, Database
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS, floor

_log = logging.getLogger(__name__)
_QUERIES = load_queries("overviews")
_MINUTE, _QUARTER = timedelta(minutes=1), min(BUCKETS)
NAMED_SERVICES = 7  # are told apart; a chart of more is hard to read
CHANGED_CUSTOMERS = 10
MEAN_DAYS = 7  # a week: weekends count as often as they come
KEPT_SECONDS = 300.0  # how long an overview of all customers is shown at most, while a newer one is read
NEW_SECONDS = 1.0  # how long it counts as new
NEW_TIMES = 5  # or so many times what it took to read, if that is more
MAX_KEPT = 100


class DayTotal(Struct, frozen=True):
    """What one day adds up to. `services` holds amounts; the key None stands for all services that are not named."""

    day: date
    records: int
    amount: str
    services: dict[str | None, str]


class Calendar(NamedTuple):
    """Two months of a time zone.

    Attributes:
        now: The moment it was made at.
        zone: The name of the time zone.
        days: All days of the month before and of this month.
        bounds: When each of them begins, in UTC, and when the last one ends.
        first: The index of this month's first day.
        today: The index of today.
        minutes: The size of the largest rollups whose boundaries the bounds are on.
        comparable: The moment of the month before that corresponds to `now`: at a boundary of these rollups, and at
            most the end of that month.
    """

    now: datetime
    zone: str
    days: tuple[date, ...]
    bounds: tuple[datetime, ...]
    first: int
    today: int
    minutes: int
    comparable: datetime

    @property
    def cuts(self) -> list[datetime]:
        """The bounds, and the comparable moment between them."""
        return sorted({*self.bounds, self.comparable})


def calendar_of(now: datetime, zone: str) -> Calendar:
    """The calendar of the month that holds a moment."""
    info = ZoneInfo(zone)
    today = day_at(now, info)
    first = today.replace(day=1)
    before = (first - DAY).replace(day=1)
    end = (first + 31 * DAY).replace(day=1)
    days = tuple(before + n * DAY for n in range((end - before).days))
    bounds = tuple(start_of_day(day, info) for day in (*days, end))
    size = next((size for size in BUCKETS if all(floor(bound, size) == bound for bound in bounds)), _QUARTER)
    split, here = (first - before).days, (today - before).days
    same_day = min(here - split, split)
    comparable = min(floor(bounds[same_day] + (now - bounds[here]), size), bounds[split])
    return Calendar(now, zone, days, bounds, split, here, size // _MINUTE, comparable)


class Forecast(Struct, frozen=True):
    """What this month is likely to come to: what is billed, and `mean` a day for the time that is left.

    `amount` and `mean` are rounded to the minor unit of the currency; the exact mean was calculated with.
    """

    amount: str
    billed: str
    mean: str
    mean_from: date
    mean_to: date
    left: timedelta


class CustomerChange(Struct, frozen=True):
    """A customer, and what it comes to this month until now and in the same part of the month before."""

    customer_id: str
    name: str
    before: str
    after: str

    @property
    def difference(self) -> str:
        return difference(self.after, self.before)


class Overview(Struct, frozen=True):
    """All customers, or one of them, as of `calendar.now`.

    Attributes:
        calendar: The two months.
        days: The totals of their days, in order.
        services: The names of the services that are told apart, by name; None is last, if there are others.
        before: The amount of the month before until the same moment.
        recent: How many records occurred from `recent_from` to `recent_to`.
        credits: How many credits there are this month, and their amount, which is below zero.
        voided: How many records were voided this month, and their amount.
        to_issue: How many customers have usage in the month before, and no statement of it.
        changed: The customers that changed most; empty for one customer.
    """

    calendar: Calendar
    days: list[DayTotal]
    services: list[str | None]
    before: str
    recent: int
    recent_from: datetime
    recent_to: datetime
    credits: tuple[int, str]
    voided: tuple[int, str]
    to_issue: int
    changed: list[CustomerChange]

    @property
    def this_month(self) -> list[DayTotal]:
        return self.days[self.calendar.first :]

    @property
    def month_before(self) -> list[DayTotal]:
        return self.days[: self.calendar.first]

    def forecast(self, minor_unit: int) -> Forecast:
        """What this month is likely to come to, rounded to so many digits after the point."""
        calendar = self.calendar
        window = self.days[max(0, calendar.today - MEAN_DAYS) : calendar.today]
        while len(window) > 1 and not window[0].records:  # before the first usage
            window = window[1:]
        mean = Fraction(Decimal(total(day.amount for day in window))) / max(1, len(window))
        left = calendar.bounds[-1] - calendar.now
        billed = total(day.amount for day in self.this_month)
        estimate = Fraction(Decimal(billed)) + mean * Fraction(left // timedelta(seconds=1), 86_400)
        return Forecast(
            amount=_rounded(estimate, minor_unit),
            billed=billed,
            mean=_rounded(mean, minor_unit),
            mean_from=window[0].day,
            mean_to=window[-1].day,
            left=left,
        )


def _rounded(number: Fraction, digits: int) -> str:
    """A fraction rounded to so many digits after the point, half away from zero."""
    scaled = abs(number) * 10**digits
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    text = str(whole).rjust(digits + 1, "0")
    sign = "-" if number < 0 and whole else ""
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else f"{sign}{text}"


class _Kept(NamedTuple):
    """An overview, when its reading began, and until when it counts as new, on the loop's clock."""

    overview: Overview
    began: float
    until: float


class Overviews:
    """Reads overviews.

    To read one of all customers takes a moment, so the last is kept: a page shows it at once, says as of when it is,
    and has a newer one read in the background, which its script then asks for.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._reading: dict[str, asyncio.Lock] = {}
        self._readers: set[asyncio.Task[object]] = set()

    async def read(self, customer_id: str | None, zone: str, *, fresh: bool = False) -> Overview:
        """An overview. Raises DatabaseUnavailableError.

        Args:
            customer_id: The customer; None for all.
            zone: The time zone of its days.
            fresh: Whether it must hold all that was committed before this call; else it may be one that was kept, of at
                most KEPT_SECONDS ago.
        """
        if customer_id is not None:
            return await self._read(customer_id, zone)
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(zone)
        if fresh or kept is None or kept.began < now - KEPT_SECONDS:
            return await self._read_since(zone, now)
        if kept.until < now and not self._readers:
            reader = asyncio.create_task(self._read_since(zone, now), context=Context())
            self._readers.add(reader)
            reader.add_done_callback(self._forget)
        return kept.overview

    async def close(self) -> None:
        """End what is read in the background."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _forget(self, reader: "asyncio.Task[object]") -> None:
        self._readers.discard(reader)
        if not reader.cancelled() and (error := reader.exception()) is not None:
            _log.warning("the console's overview could not be read: %s", error)

    async def _read_since(self, zone: str, moment: float) -> Overview:
        """An overview whose reading began at a moment or later. Whoever waits for one shares the next."""
        if len(self._reading) > MAX_KEPT:
            self._reading.clear()
            self._kept.clear()
        time = asyncio.get_running_loop().time
        async with self._reading.setdefault(zone, asyncio.Lock()):
            kept = self._kept.get(zone)
            if kept is not None and kept.began >= moment:
                return kept.overview
            began = time()
            overview = await self._read(None, zone)
            until = began + max(NEW_SECONDS, (time() - began) * NEW_TIMES)
            self._kept[zone] = _Kept(overview, began, until)
            return overview

    async def _read(self, customer_id: str | None, zone: str) -> Overview:
        calendar = calendar_of(self._clock.now(), zone)
        async with (
            self._database.read_connection(is_large=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await read_overview(connection, customer_id, calendar)


async def read_overview(connection: Connection, customer_id: str | None, calendar: Calendar) -> Overview:
    """Read an overview, within a transaction of one snapshot. Raises what asyncpg raises."""
    bounds, first = calendar.bounds, calendar.first
    cuts = calendar.cuts
    rows = await connection.fetch(_QUERIES["totals_by_day"], calendar.minutes, cuts, NAMED_SERVICES, customer_id)
    days = _day_totals(rows, calendar, cuts)
    recent_to = floor(calendar.now, _QUARTER)
    recent = (recent_to - _QUARTER, recent_to)
    month = (bounds[first], bounds[-1], customer_id)
    credited = await connection.fetchrow(_QUERIES["credited_from"], calendar.minutes, *month)
    voided = await connection.fetchrow(_QUERIES["voided_from"], *month)
    services = {service for day in days for service in day.services}
    return Overview(
        calendar=calendar,
        days=days,
        services=sorted(service for service in services if service is not None) + [None] * (None in services),
        before=total(row["amount"] for row in rows if cuts[row["day"] - 1] < calendar.comparable),
        recent=await connection.fetchval(_QUERIES["records_from"], *recent, customer_id),
        recent_from=recent[0],
        recent_to=recent[1],
        credits=_sums(credited),
        voided=_sums(voided),
        to_issue=await connection.fetchval(
            _QUERIES["to_issue"], calendar.minutes, bounds[0], bounds[first], calendar.days[0], customer_id
        ),
        changed=[] if customer_id is not None else await _most_changed(connection, calendar),
    )


def _sums(row: asyncpg.Record | None) -> tuple[int, str]:
    return (0, "0") if row is None else (row["records"], row["amount"])


def _day_totals(rows: Sequence[asyncpg.Record], calendar: Calendar, cuts: Sequence[datetime]) -> list[DayTotal]:
    """The totals of each day, from rows by day and service; a day that was cut in two has rows of both its parts."""
    by_day: list[list[asyncpg.Record]] = [[] for _ in calendar.days]
    for row in rows:
        by_day[bisect_right(calendar.bounds, cuts[row["day"] - 1]) - 1].append(row)
    totals = []
    for day, found in zip(calendar.days, by_day, strict=True):
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


async def names_of(connection: Connection, customer_ids: list[str]) -> dict[str, str]:
    """The names of customers, by their ids. Raises what asyncpg raises."""
    rows = await connection.fetch(_QUERIES["names_of_customers"], customer_ids)
    return {row["customer_id"]: row["name"] for row in rows}


class CustomerLine(Struct, frozen=True):
    """A customer in a list: its name, its totals of each day of a calendar, and what the two months add up to.

    Attributes:
        id: Its id.
        name: Its name.
        days: The amount of each day, in order.
        records: How many records it has this month.
        amount: This month's amount.
        before: The amount of the month before, until the same moment.
    """

    id: str
    name: str
    days: list[str]
    records: int
    amount: str
    before: str


async def search_customers(
    connection: Connection, text: str, after: str, limit: int, only: str | None = None
) -> list[tuple[str, str]]:
    """Find customers by a part of their id or name, whatever its case. Raises what asyncpg raises.

    Args:
        connection: Where to read.
        text: The text to look for; empty for all customers.
        after: List only ids after this one; empty for all.
        limit: The most customers to return.
        only: The only customer that the caller may see; None for all customers.

    Returns:
        The id and name of each, by id.
    """
    if only is not None:
        found = [(id_, name) for id_, name in (await names_of(connection, [only])).items() if after < id_]
        return [each for each in found if any(text.lower() in part.lower() for part in each)]
    rows = await connection.fetch(_QUERIES["search_customers"], after, text, limit)
    return [(row["customer_id"], row["name"]) for row in rows]


async def customer_lines(
    connection: Connection, customers: Sequence[tuple[str, str]], calendar: Calendar
) -> list[CustomerLine]:
    """The totals of customers, given by id and name. Raises what asyncpg raises."""
    cuts = calendar.cuts
    ids = [id_ for id_, _ in customers]
    rows = await connection.fetch(_QUERIES["totals_of_customers"], calendar.minutes, ids, cuts)
    by_customer: dict[str, list[asyncpg.Record]] = {id_: [] for id_ in ids}
    for row in rows:
        by_customer[row["customer_id"]].append(row)
    return [_line(id_, name, by_customer[id_], calendar, cuts) for id_, name in customers]


def _line(
    id_: str, name: str, rows: Sequence[asyncpg.Record], calendar: Calendar, cuts: Sequence[datetime]
) -> CustomerLine:
    days = ["0"] * len(calendar.days)
    for row in rows:
        day = bisect_right(calendar.bounds, cuts[row["day"] - 1]) - 1
        days[day] = total([days[day], row["amount"]])
    return CustomerLine(
        id=id_,
        name=name,
        days=days,
        records=sum(row["records"] for row in rows if cuts[row["day"] - 1] >= calendar.bounds[calendar.first]),
        amount=total(days[calendar.first :]),
        before=total(row["amount"] for row in rows if cuts[row["day"] - 1] < calendar.comparable),
    )
