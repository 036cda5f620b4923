"""Rollups: the sums of the records by bucket of time and service, and the summaries that are read from them.

They are written in the transaction that writes the records, so a summary always agrees with the records.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Struct

from billing_client.contract.periods import DAY, HOUR, Grouping, Period, PeriodUnit, periods_between
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS, floor, split

_QUERIES = load_queries("rollups")
_MINUTE = timedelta(minutes=1)
# all usage lies between, and every zone has a local time for both
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
MAX_PERIODS = 2_000  # in a longer span it pays to look first where any usage is


class Group(Struct, frozen=True):
    """The usage in a group. `period` is when its hour, day or month begins; without one, when the summary does."""

    period: datetime
    service: str | None
    records: int
    units: str
    amount: str


class TooManyGroupsError(Exception):
    """A summary would have more groups than it may."""


async def take_from_rollups(connection: Connection, record: UsageRecord[str]) -> None:
    """Take a record out, within the transaction that voids it, in the order in which others lock the rollups."""
    for size in sorted(BUCKETS):
        key = (record.customer_id, size // _MINUTE, floor(record.occurred_at, size), record.service)
        await connection.execute(_QUERIES["take_from_rollups"], *key, record.units_consumed, record.amount)


async def summarize(
    connection: Connection, customer_id: str, start: datetime, end: datetime, grouping: Grouping, limit: int
) -> list[Group]:
    """The groups of a customer's usage, `start` in and `end` out, by period, then service, all from one snapshot.

    Raises TooManyGroupsError where there are more than `limit`.
    """
    start, end = max(start, EARLIEST), min(end, LATEST)
    unit, zone = grouping.period, grouping.timezone
    if unit is None or end - start <= MAX_PERIODS * _least(unit):
        return await _read(connection, customer_id, plan(start, end, unit, zone), grouping.service, limit)
    async with _snapshot(connection):
        periods = await _used_periods(connection, customer_id, start, end, unit, zone, limit)
        return await _read(connection, customer_id, _plan(periods, start, end), grouping.service, limit)


def _least(unit: PeriodUnit) -> timedelta:
    """A length that few periods of this unit are shorter than."""
    return HOUR if unit == "hour" else DAY


def _snapshot(connection: Connection) -> AbstractAsyncContextManager[Any]:
    return connection.transaction(isolation="repeatable_read", readonly=True)


class Plan(NamedTuple):
    """The pieces of some periods, column by column: of rollups and of records."""

    rollups: Sequence[Sequence[object]]
    records: Sequence[Sequence[object]]


@lru_cache(maxsize=32)
def plan(start: datetime, end: datetime, unit: PeriodUnit | None, zone: str) -> Plan:
    """The pieces of each period from `start` to `end`, or without a unit of all that time."""
    periods = [Period(start, end)] if unit is None else periods_between(start, end, unit, ZoneInfo(zone))
    return _plan(periods, start, end)


def _plan(periods: Iterable[Period], start: datetime, end: datetime) -> Plan:
    pieces = [
        (max(p.start, EARLIEST), *piece) for p in periods for piece in split(max(p.start, start), min(p.end, end))
    ]
    rollups = [(period, size // _MINUTE, first, last) for period, size, first, last in pieces if size is not None]
    records = [(period, first, last) for period, size, first, last in pieces if size is None]
    return Plan([*zip(*rollups, strict=True)] or [()] * 4, [*zip(*records, strict=True)] or [()] * 3)


async def _used_periods(
    connection: Connection, customer_id: str, start: datetime, end: datetime, unit: PeriodUnit, zone: str, limit: int
) -> Iterable[Period]:
    """The periods in which there is any usage, and some beside them, in order."""
    size = _least(unit)
    minutes = max(bucket for bucket in BUCKETS if bucket <= size) // _MINUTE
    rows = await connection.fetch(
        _QUERIES["used_buckets"], customer_id, minutes, size, floor(start, size), end, 2 * limit + 1
    )
    if len(rows) > 2 * limit:  # the usage of one period is in two of them at the most
        raise TooManyGroupsError
    spans = ((max(row["start"], start), min(row["start"] + size, end)) for row in rows)
    # of a period that has a part in several buckets once
    return dict.fromkeys(period for span in spans for period in periods_between(*span, unit, ZoneInfo(zone)))


async def _read(connection: Connection, customer_id: str, plan: Plan, by_service: bool, limit: int) -> list[Group]:
    rows = await connection.fetch(
        _QUERIES["summarize"], customer_id, by_service, limit + 1, *plan.rollups, *plan.records
    )
    if len(rows) > limit:
        raise TooManyGroupsError
    return [Group(*row) for row in rows]
