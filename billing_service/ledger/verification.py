"""Verification: recomputes from the records everything that is derived from them, and compares.

Two things are derived: the sums (rollups), and each record's request id, which is a SHA-256 of the customer and the
event id, or without an event id of customer, service, units, price and dimensions. So these changes to the database
stay unseen:

- A record that was deleted and whose sums were reduced to match.
- A void that was removed or added and whose sums were changed to match.
- With an event id: another service, price or number of units, if the sums were changed to match; other dimensions.
- Another time of occurrence, within the same 15 minutes or with the sums changed to match.
- Changes that cancel each other out within one bucket of 15 minutes.
- Whatever neither sums nor request ids depend on: when and by which key a record was stored, the texts of voids,
  customers' names, API keys and issued statements.
"""

import asyncpg
from msgspec import Struct

from billing_client.contract.identity import event_request_id, usage_request_id
from billing_service.database.migrations import check_schema
from billing_service.database.pool import Connection, connected
from billing_service.database.queries import load_queries
from billing_service.ledger.records import dimensions_of
from billing_service.settings import Settings

_ROLLUPS = load_queries("rollups")
_USAGE = load_queries("usage")
CHUNK = 5_000  # records fetched at a time


class Report(Struct, frozen=True):
    """The result of a verification.

    Attributes:
        records: How many records were checked.
        rollups: How many sums were checked.
        differences: One line of text for each difference.
    """

    records: int
    rollups: int
    differences: list[str]


async def verify_ledger(settings: Settings) -> Report:
    """Recompute all request ids and sums in one snapshot. Memory grows only with the number of differences.

    Raises:
        MigrationError: The database's schema does not fit this program.
    """
    async with connected(settings) as connection:
        await check_schema(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            records, wrong_ids = await _check_request_ids(connection)
            rollups = await connection.fetchval(_ROLLUPS["count_rollups"])
            rows = await connection.fetch(_ROLLUPS["verify_rollups"])
            credits_ = await connection.fetch(_ROLLUPS["verify_credits"])
            filled = [row["dimension"] for row in await connection.fetch(_ROLLUPS["filled_dimensions"])]
            dimensions = await connection.fetch(_ROLLUPS["verify_dimensions"], filled) if filled else []
    differences = wrong_ids + [_describe(row) for row in rows] + [_describe(row, "sum of credits") for row in credits_]
    return Report(
        records,
        rollups,
        differences + [_describe(row, f"sum by {row['dimension']} = {row['value']!r}") for row in dimensions],
    )


async def _check_request_ids(connection: "Connection | asyncpg.Connection[asyncpg.Record]") -> tuple[int, list[str]]:
    records, wrong = 0, []
    async for row in connection.cursor(_USAGE["all_identities"], prefetch=CHUNK):
        records += 1
        if row["event_id"] is not None:
            expected = event_request_id(row["customer_id"], row["event_id"])
        else:
            expected = usage_request_id(
                row["customer_id"],
                row["service"],
                row["units_consumed"],
                row["price_per_unit"],
                dimensions_of(row) or None,
            )
        if row["request_id"].hex() != expected:
            wrong.append(f"customer {row['customer_id']!r}: record {row['request_id'].hex()} should be {expected}")
    return records, wrong


_BUCKETS = {15: "quarter of an hour", 180: "three hours", 1440: "day"}


def _describe(row: asyncpg.Record, what: str = "sum") -> str:
    bucket = _BUCKETS[row["bucket_minutes"]]
    stored = f"{row['stored_records']} records, {row['stored_units']} units, amount {row['stored_amount']}"
    recomputed = f"{row['records']} records, {row['units']} units, amount {row['amount']}"
    return (
        f"customer {row['customer_id']!r}, service {row['service']!r}, {bucket} from {row['bucket'].isoformat()}: "
        f"the {what} says {stored}; the records say {recomputed}"
    )
