"""What the records add up to, kept beside them in the same transaction, so that a bill does not read them all."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import asyncpg
from msgspec import Struct

from billing_client.wire import UsageRecord
from billing_service.amounts import add, plain
from billing_service.database import Connection
from billing_service.queries import load_queries

_QUERIES = load_queries("rollups")
QUARTER_MINUTES, DAY_MINUTES = 15, 1440


class _Key(NamedTuple):
    customer_id: str
    grain_minutes: int
    bucket: datetime
    service: str


class Grouping(Struct, frozen=True):
    """What a summary is asked to tell apart: services, and the finest of hour, day and month in a time zone."""

    service: bool
    period: str | None
    timezone: str


async def add_to_rollups(connection: Connection, records: Iterable[UsageRecord[str]]) -> None:
    """Add new records to the rollups, within the transaction that writes them."""
    sums: dict[_Key, tuple[int, Decimal, Decimal]] = {}
    for record in records:
        units, amount = Decimal(record.units_consumed), Decimal(record.amount)
        for key in _keys(record):
            counted, summed_units, summed_amount = sums.get(key, (0, Decimal(0), Decimal(0)))
            sums[key] = (counted + 1, add(summed_units, units), add(summed_amount, amount))
    if not sums:
        return
    ordered = sorted(sums.items())
    await connection.execute(
        _QUERIES["add_to_rollups"],
        *zip(*[key for key, _ in ordered], strict=True),
        [counted for _, (counted, _, _) in ordered],
        [plain(units) for _, (_, units, _) in ordered],
        [plain(amount) for _, (_, _, amount) in ordered],
    )


async def take_from_rollups(connection: Connection, record: UsageRecord[str]) -> None:
    """Take a record out of the rollups, within the transaction that voids it."""
    for key in sorted(_keys(record)):
        await connection.execute(_QUERIES["take_from_rollups"], *key, record.units_consumed, record.amount)


def _keys(record: UsageRecord[str]) -> tuple[_Key, _Key]:
    at = record.occurred_at
    quarter = at.replace(minute=at.minute // QUARTER_MINUTES * QUARTER_MINUTES, second=0, microsecond=0)
    return (
        _Key(record.customer_id, QUARTER_MINUTES, quarter, record.service),
        _Key(record.customer_id, DAY_MINUTES, quarter.replace(hour=0, minute=0), record.service),
    )


async def summarize(
    connection: Connection,
    customer_ids: Sequence[str],
    start: datetime,
    end: datetime,
    grouping: Grouping,
    limit: int,
) -> list[asyncpg.Record]:
    """At most `limit` groups of customers' usage, `start` in and `end` out, by customer, period, service."""
    return await connection.fetch(
        _QUERIES["summarize"],
        customer_ids,
        start,
        end,
        grouping.period,
        grouping.timezone,
        grouping.service,
        limit,
    )
