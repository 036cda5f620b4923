"""Reads statements: a month as it stands, or as it was issued if nothing has changed since."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from billing_client.contract.periods import Month
from billing_service.database.pool import Connection
from billing_service.ledger.statements.changes import changes_since
from billing_service.ledger.statements.issued import latest_issued
from billing_service.ledger.statements.months import encode_statement, provisional_statement, read_month


class StatementRead(NamedTuple):
    """A statement that was read.

    Attributes:
        document: It as it is sent: as JSON.
        lacking: Of which spans of time parts of pieces had to be read from the records, and had better be kept.
    """

    document: bytes
    lacking: list[tuple[datetime, datetime]]


async def read_statement(
    connection: Connection, month: Month, currency: str, since: bytes | None, now: datetime, max_records: int
) -> StatementRead:
    """Read the statement of a month. Nothing is written.

    Args:
        connection: A connection without an open transaction.
        month: The customer and the month.
        currency: The ISO 4217 code of the currency; its minor unit is what the total is rounded to.
        since: The digest of an earlier statement (32 bytes) whose changes are wanted; None for none.
        now: The time.
        max_records: How many records may be hashed for what is not prepared.

    Raises:
        ProblemError: 404; there is no such customer, or no such earlier statement.
        NotPreparedError: More records would have to be hashed.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        content = await read_month(connection, month, max_records)
        latest = await latest_issued(connection, month)
        is_issued = latest is not None and latest.listed.digest == content.digest.hex()
        if latest is not None and is_issued and since is None:
            return StatementRead(latest.document, content.lacking)
        statement = await provisional_statement(content, currency, now, None if latest is None else latest.reference)
        if since is not None:
            changes = await changes_since(connection, content, since, currency)
            statement = msgspec.structs.replace(statement, changes=changes)
    if latest is not None and is_issued:
        listed = latest.listed
        statement = msgspec.structs.replace(
            statement, status="issued", number=listed.number, issued_at=listed.issued_at, previous=None
        )
    return StatementRead(await encode_statement(statement), content.lacking)
