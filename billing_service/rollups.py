"""What the records add up to, kept beside them in the same transaction, so that a bill does not read them all."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from billing_client.contract.periods import Grouping
from billing_client.wire import UsageRecord
from billing_service.database import Connection
from billing_service.queries import load_queries

_QUERIES = load_queries("rollups")
# zones whose names PostgreSQL takes for abbreviations, without daylight saving
_POSTGRESQL_NAMES = {"CET": "Europe/Brussels", "EET": "Europe/Athens", "MET": "Europe/Brussels", "WET": "Europe/Lisbon"}
QUARTER_MINUTES, DAY_MINUTES = 15, 1440


async def take_from_rollups(connection: Connection, record: UsageRecord[str]) -> None:
    """Take a record out, within the transaction that voids it, in the order in which others lock the sums."""
    at = record.occurred_at
    quarter = at.replace(minute=at.minute // QUARTER_MINUTES * QUARTER_MINUTES, second=0, microsecond=0)
    for grain, bucket in ((QUARTER_MINUTES, quarter), (DAY_MINUTES, quarter.replace(hour=0, minute=0))):
        key = (record.customer_id, grain, bucket, record.service)
        await connection.execute(_QUERIES["take_from_rollups"], *key, record.units_consumed, record.amount)


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
        _POSTGRESQL_NAMES.get(grouping.timezone, grouping.timezone),
        grouping.service,
        limit,
    )
