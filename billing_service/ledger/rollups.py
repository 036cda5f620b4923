"""What the records add up to, kept beside them in the same transaction, so that a bill does not read them all."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

import asyncpg
from asyncpg.transaction import Transaction
from msgspec import Struct

from billing_client.contract.amounts import total
from billing_client.contract.periods import Grouping, Period
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import DAY, GRAINS, HOUR, Cut, cells, cut, floor, stretches

_QUERIES = load_queries("rollups")
MINUTE = HOUR / 60
# all usage lies between, and every zone has a local time for both
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
MAX_CELLS = 2_000  # in more time than these make up it pays to ask first where any usage is


class Group(Struct, frozen=True):
    """The usage in a group: `period` is when it begins, in its local time."""

    period: datetime | None
    service: str | None
    records: int
    units: str
    amount: str


class TooManyGroupsError(Exception):
    """A summary would have more groups than it may."""


async def take_from_rollups(connection: Connection, record: UsageRecord[str]) -> None:
    """Take a record out, within the transaction that voids it, in the order in which others lock the sums."""
    for grain in sorted(GRAINS):
        key = (record.customer_id, grain // MINUTE, floor(record.occurred_at, grain), record.service)
        await connection.execute(_QUERIES["take_from_rollups"], *key, record.units_consumed, record.amount)


async def summarize(
    connection: Connection, customer_id: str, start: datetime, end: datetime, grouping: Grouping, limit: int
) -> list[Group]:
    """The groups of a customer's usage, `start` in and `end` out, by period, service, all from one snapshot.

    Raises TooManyGroupsError where there are more than `limit`.
    """
    start, end = max(start, EARLIEST), min(end, LATEST)
    period, zone = grouping.period, grouping.timezone
    size = HOUR if period == "hour" else DAY
    if period is None or end - start <= MAX_CELLS * size:
        plan = usual_plan(start, end, period, zone)
        if not plan.records:
            return await _read(connection, customer_id, plan, grouping.service, limit)
        async with _one_snapshot(connection):
            return await _read(connection, customer_id, plan, grouping.service, limit)
    async with _one_snapshot(connection):
        used = await _used_cells(connection, customer_id, start, end, size, limit)
        plan = _plan(*cut(used, size, start, end, period, zone), _grains(size))
        return await _read(connection, customer_id, plan, grouping.service, limit)


def _one_snapshot(connection: Connection) -> Transaction:
    return connection.transaction(isolation="repeatable_read", readonly=True)


class Plan(NamedTuple):
    """What makes up the periods: when they begin, by number, and the columns of stretches of rollups and of records."""

    periods: Sequence[datetime | None]
    rollups: Sequence[Sequence[object]]
    records: Sequence[Sequence[object]]


@lru_cache(maxsize=32)
def usual_plan(start: datetime, end: datetime, period: Period | None, zone: str) -> Plan:
    """What makes up each period of a time, whether or not there was any usage in it."""
    if period is None:
        return _plan([Cut(start, None, 0), Cut(end, 0, None)], [None], GRAINS)
    size = HOUR if period == "hour" else DAY
    return _plan(*cut(cells(start, end, size), size, start, end, period, zone), _grains(size))


def _plan(cuts: Sequence[Cut], periods: Sequence[datetime | None], grains: Sequence[timedelta]) -> Plan:
    made_up = stretches(cuts, grains)
    rollups = [(grain // MINUTE, *rest) for grain, *rest in made_up if grain]
    records = [rest for grain, *rest in made_up if not grain]
    return Plan(periods, [*map(list, zip(*rollups, strict=True))], [*map(list, zip(*records, strict=True))])


def _grains(size: timedelta) -> list[timedelta]:
    return [grain for grain in GRAINS if grain <= size]


async def _used_cells(
    connection: Connection, customer_id: str, start: datetime, end: datetime, size: timedelta, limit: int
) -> list[datetime]:
    """The cells of UTC, each of this size, that hold any usage; a group may lie in two of them."""
    grain = _grains(size)[0] // MINUTE
    rows = await connection.fetch(
        _QUERIES["used_cells"], customer_id, grain, size, floor(start, size), end, 2 * limit + 1
    )
    if len(rows) > 2 * limit:
        raise TooManyGroupsError
    return [row["cell"] for row in rows]


async def _read(connection: Connection, customer_id: str, plan: Plan, by_service: bool, limit: int) -> list[Group]:
    parts: dict[tuple[int, str | None], list[asyncpg.Record]] = {}
    for query, columns in (("summarize_rollups", plan.rollups), ("summarize_records", plan.records)):
        if columns:
            rows = await connection.fetch(_QUERIES[query], customer_id, by_service, 2 * limit + 1, *columns)
            if len(rows) > 2 * limit:  # some may have been left out; a group makes two of them at the most
                raise TooManyGroupsError
            for row in rows:
                parts.setdefault((row["period"], row["service"]), []).append(row)
    groups = [_group(plan.periods, key, rows) for key, rows in sorted(parts.items(), key=itemgetter(0))]
    groups = [group for group in groups if group.records]
    if len(groups) > limit:
        raise TooManyGroupsError
    return groups


def _group(periods: Sequence[datetime | None], key: tuple[int, str | None], parts: Sequence[asyncpg.Record]) -> Group:
    period, service = key
    return Group(
        periods[period],
        service,
        sum(part["records"] for part in parts),
        total(part["units"] for part in parts),
        total(part["amount"] for part in parts),
    )
