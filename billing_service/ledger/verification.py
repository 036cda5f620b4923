"""The proof: everything that can be computed from the records, computed again."""

import asyncpg
from msgspec import Struct

from billing_client.contract.identity import event_request_id, usage_request_id
from billing_service.database.migrations import check_schema
from billing_service.database.pool import Connection, connected
from billing_service.database.queries import load_queries
from billing_service.settings import Settings

_ROLLUPS = load_queries("rollups")
_USAGE = load_queries("usage")
CHUNK = 5_000


class Report(Struct, frozen=True):
    """What was looked at, and each difference as a line for a person."""

    records: int
    rollups: int
    differences: list[str]


async def verify_ledger(settings: Settings) -> Report:
    """Recompute all request ids and rollups in one snapshot, in constant memory but for the differences."""
    async with connected(settings) as connection:
        await check_schema(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            records, wrong_ids = await _check_request_ids(connection)
            rollups = await connection.fetchval(_ROLLUPS["count_rollups"])
            rows = await connection.fetch(_ROLLUPS["verify_rollups"])
    return Report(records, rollups, wrong_ids + [_describe(row) for row in rows])


async def _check_request_ids(connection: "Connection | asyncpg.Connection[asyncpg.Record]") -> tuple[int, list[str]]:
    records, wrong = 0, []
    async for row in connection.cursor(_USAGE["all_identities"], prefetch=CHUNK):
        records += 1
        if row["event_id"] is not None:
            expected = event_request_id(row["customer_id"], row["event_id"])
        else:
            expected = usage_request_id(
                row["customer_id"], row["service"], row["units_consumed"], row["price_per_unit"]
            )
        if row["request_id"].hex() != expected:
            wrong.append(f"customer {row['customer_id']!r}: record {row['request_id'].hex()} should be {expected}")
    return records, wrong


def _describe(row: asyncpg.Record) -> str:
    grain = "three hours" if row["bucket_minutes"] == 180 else "quarter of an hour"
    stored = f"{row['stored_records']} records, {row['stored_units']} units, amount {row['stored_amount']}"
    right = f"{row['records']} records, {row['units']} units, amount {row['amount']}"
    return (
        f"customer {row['customer_id']!r}, service {row['service']!r}, {grain} from {row['bucket'].isoformat()}: "
        f"the sum says {stored}; the records say {right}"
    )
