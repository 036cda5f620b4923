"""Rollups: the sums of the records by bucket of time and service, and what spans of time add up to by them.

They are written in the transaction that writes the records, so a summary always agrees with the records.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Annotated, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Meta, Struct

from billing_client.contract.periods import (
    DAY,
    HOUR,
    MAX_GROUP_DIMENSIONS,
    Grouping,
    Period,
    PeriodUnit,
    SummaryRequest,
    periods_between,
)
from billing_client.contract.request_parsing import BEGINNING
from billing_client.contract.wire import MAX_NAME_LENGTH, Name, Timestamp, UsageRecord
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS, floor, split

_QUERIES = load_queries("rollups")
_MINUTE = timedelta(minutes=1)
# all usage lies between, and every zone has a local time for both
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
MAX_PERIODS = 1_000  # are read at once; in a longer span, those in which there is any usage


async def take_from_rollups(connection: Connection, record: UsageRecord[str]) -> None:
    """Take a record out, within the transaction that voids it, in the order in which others lock the rollups."""
    sums, is_credit = (record.units_consumed, record.amount), record.units_consumed.startswith("-")
    for query in ("take_from_rollups", "take_from_credits") if is_credit else ("take_from_rollups",):
        for size in sorted(BUCKETS):
            key = (record.customer_id, size // _MINUTE, floor(record.occurred_at, size), record.service)
            await connection.execute(_QUERIES[query], *key, *sums)
    if record.dimensions:
        await connection.execute(_QUERIES["lock_dimensions"], record.customer_id)
        prepared = [row["dimension"] for row in await connection.fetch(_QUERIES["prepared_dimensions"])]
        for name in (name for name in prepared if name in record.dimensions):
            for size in sorted((*BUCKETS, DAY)):
                place = (size // _MINUTE, floor(record.occurred_at, size), record.service, record.dimensions[name])
                await connection.execute(_QUERIES["take_from_dimensions"], record.customer_id, name, *place, *sums)


_Value = Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]


class GroupKey(Struct, array_like=True, frozen=True):
    """The place of a group among those of a summary, which are ordered by period, service, then dimensions.

    Attributes:
        period: When the hour, day or month of the group begins; without periods, when the time summed up does.
        service: Its service; None where services are not told apart.
        values: The values of the dimensions that are told apart; an empty one for records without.
    """

    period: Timestamp
    service: Name | None
    values: Annotated[
        list[Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]], Meta(max_length=MAX_GROUP_DIMENSIONS)
    ] = []


Seen = tuple[datetime, str, str, str]
"""The period, the service and the values of two dimensions of the last group that was read."""
Sizes = tuple[timedelta, ...]


class GroupSource(Protocol):
    """Where groups are read from."""

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], "Plan"]
    ) -> tuple[object, ...]:
        """The arguments of the query that reads them. `plan_of` makes a plan of buckets of these sizes."""

    async def read(self, connection: Connection, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """Run the query with its arguments."""


class Rollups:
    """Groups of all usage, from the sums of all records."""

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], "Plan"]
    ) -> tuple[object, ...]:
        """See GroupSource."""
        pieces = plan_of(BUCKETS)
        return customer_id, by_service, limit, *seen[:2], *pieces.rollups, *pieces.records

    async def read(self, connection: Connection, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """See GroupSource."""
        return await connection.fetch(_QUERIES["read_groups"], *arguments)


ROLLUPS = Rollups()


async def read_groups(
    connection: Connection,
    customer_id: str,
    asked: SummaryRequest,
    limit: int,
    after: GroupKey | None = None,
    source: GroupSource = ROLLUPS,
) -> list[asyncpg.Record]:
    """At most `limit` of the groups that a customer's usage makes, in order, all from one snapshot.

    Args:
        connection: Where to read.
        customer_id: Whose usage.
        asked: Which time to sum up, and what to tell apart.
        limit: How many groups to read.
        after: The last group of the page before.
        source: Where the groups are read from.

    Returns:
        `period` (see GroupKey), `service` ("" where services are not told apart), `records`, `units` and `amount`; what
        the credits among them add up to; and the service of all, and of all credits, where it is only one.
    """
    start, end = max(asked.start, EARLIEST), min(asked.end, LATEST)
    seen: Seen = (BEGINNING, "", "", "")
    if after is not None:
        first, second = (*after.values, "", "")[:2]
        seen = (min(max(after.period, EARLIEST), LATEST), after.service or "", first, second)
        start = max(start, seen[0])
    if not _is_long(start, end, asked.grouping.period):
        return await _read(connection, customer_id, start, end, asked.grouping, limit, seen, source)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await _read(connection, customer_id, start, end, asked.grouping, limit, seen, source)


async def _read(
    connection: Connection,
    customer_id: str,
    start: datetime,
    end: datetime,
    grouping: Grouping,
    limit: int,
    seen: Seen,
    source: GroupSource,
) -> list[asyncpg.Record]:
    groups: list[asyncpg.Record] = []
    while start < end and len(groups) < limit:
        plan_of, start = await _next_plan(connection, customer_id, start, end, grouping)
        arguments = source.arguments(customer_id, grouping.service, limit - len(groups), seen, plan_of)
        groups += await source.read(connection, arguments)
    return groups


class Plan(NamedTuple):
    """The pieces of some periods, column by column: of rollups and of records."""

    rollups: Sequence[Sequence[object]]
    records: Sequence[Sequence[object]]


async def _next_plan(
    connection: Connection, customer_id: str, start: datetime, end: datetime, grouping: Grouping
) -> tuple[Callable[[Sizes], Plan], datetime]:
    """What plans the pieces of the next periods from `start` on, and where these end."""
    unit, zone = grouping.period, grouping.timezone
    if unit is None or not _is_long(start, end, unit):
        return partial(plan, start, end, unit, zone), end
    periods = await _used_periods(connection, customer_id, start, end, unit, zone)
    return partial(_plan, periods, start, end), periods[-1].end if periods else end


@lru_cache(maxsize=32)
def plan(start: datetime, end: datetime, unit: PeriodUnit | None, zone: str, sizes: Sizes = BUCKETS) -> Plan:
    """The pieces of each period from `start` to `end`; without a unit all that time is one period."""
    periods = [Period(start, end)] if unit is None else periods_between(start, end, unit, ZoneInfo(zone))
    return _plan(periods, start, end, sizes)


def _plan(periods: Iterable[Period], start: datetime, end: datetime, sizes: Sizes) -> Plan:
    pieces = [
        (max(p.start, EARLIEST), *piece)
        for p in periods
        for piece in split(max(p.start, start), min(p.end, end), sizes)
    ]
    rollups = [(period, size // _MINUTE, first, last) for period, size, first, last in pieces if size is not None]
    records = [(period, first, last) for period, size, first, last in pieces if size is None]
    return Plan([*zip(*rollups, strict=True)] or [()] * 4, [*zip(*records, strict=True)] or [()] * 3)


async def _used_periods(
    connection: Connection, customer_id: str, start: datetime, end: datetime, unit: PeriodUnit, zone: str
) -> list[Period]:
    """The next periods from `start` on in which there is any usage, and some beside them, in order."""
    size = _length(unit)
    minutes = max(bucket for bucket in BUCKETS if bucket <= size) // _MINUTE
    arguments = (customer_id, minutes, size, floor(start, size), end, MAX_PERIODS)
    rows = await connection.fetch(_QUERIES["used_buckets"], *arguments)
    spans = ((max(row["start"], start), min(row["start"] + size, end)) for row in rows)
    periods = (period for span in spans for period in periods_between(*span, unit, ZoneInfo(zone)))
    return list(dict.fromkeys(periods))  # one that has a part in several of the spans is read once


def _is_long(start: datetime, end: datetime, unit: PeriodUnit | None) -> bool:
    """Whether it pays to look first where any usage is."""
    return unit is not None and end - start > MAX_PERIODS * _length(unit)


def _length(unit: PeriodUnit) -> timedelta:
    """How long an hour or a day is; of months the days are looked at."""
    return HOUR if unit == "hour" else DAY
