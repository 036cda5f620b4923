"""Reads statements: a month as it stands, or as it was issued if nothing has changed since."""

from datetime import datetime

import msgspec

from billing_client.contract.periods import Month
from billing_service.database.pool import Connection
from billing_service.ledger.statements.changes import changes_since
from billing_service.ledger.statements.issued import latest_issued
from billing_service.ledger.statements.months import encode_statement, provisional_statement, read_month


async def read_statement(
    connection: Connection, month: Month, currency: str, since: bytes | None, now: datetime, max_records: int
) -> bytes:
    """Read the statement of a month as it is sent: as JSON. Nothing is written.

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
            return latest.document
        statement = await provisional_statement(content, currency, now, None if latest is None else latest.reference)
        if since is not None:
            changes = await changes_since(connection, content, since, currency)
            statement = msgspec.structs.replace(statement, changes=changes)
    if latest is not None and is_issued:
        listed = latest.listed
        statement = msgspec.structs.replace(
            statement, status="issued", number=listed.number, issued_at=listed.issued_at, previous=None
        )
    return await encode_statement(statement)
