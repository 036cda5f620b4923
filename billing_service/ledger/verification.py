"""Verification: recomputes from the records everything that is derived from them, and compares.

These are derived: the sums (rollups); each record's request id, which is a SHA-256 of the customer and the event id, or
without an event id of customer, service, units, price and dimensions; the pieces of statements, which hold a hash of
all that is said of each record and each void; and the digests of issued statements.

Pieces are made an hour and a quarter after their three hours of UTC are over. Of what no piece has seen yet, only
changes that contradict the request ids or the sums are found. Unseen stay changes of the pieces themselves that match
those of the records and the sums, unless a statement was issued from them; customers' names and API keys.
"""

import asyncpg
from msgspec import Struct

from billing_service.database.migrations import check_schema
from billing_service.database.pool import connected
from billing_service.database.queries import load_queries
from billing_service.ledger.statements.signing import load_signer
from billing_service.ledger.statements.verification import verify_issued, verify_pieces
from billing_service.settings import Settings

_ROLLUPS = load_queries("rollups")
_USAGE = load_queries("usage")


class Report(Struct, frozen=True):
    """The result of a verification.

    Attributes:
        records: How many records were checked.
        rollups: How many sums were checked.
        pieces: How many pieces of statements were checked.
        statements: How many issued statements were checked.
        differences: One line of text for each difference.
    """

    records: int
    rollups: int
    pieces: int
    statements: int
    differences: list[str]


async def verify_ledger(settings: Settings) -> Report:
    """Recompute all that is derived, in one snapshot. Memory grows only with the number of differences.

    Raises:
        MigrationError: The database's schema does not fit this program.
        SettingsError: There is a key for statements, and it cannot be read.
    """
    key_set = load_signer(settings).public if settings.signing_key_file is not None else None
    async with connected(settings) as connection:
        await check_schema(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            records = await connection.fetchval(_USAGE["count_usage"])
            wrong_ids = await connection.fetch(_USAGE["wrong_request_ids"])
            rollups = await connection.fetchval(_ROLLUPS["count_rollups"])
            rows = await connection.fetch(_ROLLUPS["verify_rollups"])
            credits_ = await connection.fetch(_ROLLUPS["verify_credits"])
            filled = [row["dimension"] for row in await connection.fetch(_ROLLUPS["filled_dimensions"])]
            dimensions = await connection.fetch(_ROLLUPS["verify_dimensions"], filled) if filled else []
            pieces, changed = await verify_pieces(connection)
            statements, faults = await verify_issued(connection, key_set)
    differences = [
        f"customer {row['customer_id']!r}: record {row['request_id']} should be {row['expected']}" for row in wrong_ids
    ]
    differences += [_describe(row) for row in rows] + [_describe(row, "sum of credits") for row in credits_]
    differences += [_describe(row, f"sum by {row['dimension']} = {row['value']!r}") for row in dimensions]
    return Report(records, rollups, pieces, statements, differences + changed + faults)


_BUCKETS = {15: "quarter of an hour", 180: "three hours", 1440: "day"}


def _describe(row: asyncpg.Record, what: str = "sum") -> str:
    bucket = _BUCKETS[row["bucket_minutes"]]
    stored = f"{row['stored_records']} records, {row['stored_units']} units, amount {row['stored_amount']}"
    recomputed = f"{row['records']} records, {row['units']} units, amount {row['amount']}"
    return (
        f"customer {row['customer_id']!r}, service {row['service']!r}, {bucket} from {row['bucket'].isoformat()}: "
        f"the {what} says {stored}; the records say {recomputed}"
    )
