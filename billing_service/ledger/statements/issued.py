"""The repository of issued statements."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

import asyncpg
import msgspec

from billing_client.contract.periods import Month, month_of
from billing_client.contract.statements.structs import IssuedStatement, Statement, StatementReference, StatementTotal
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.api_keys import key_id_bytes, key_name

_QUERIES = load_queries("issued_statements")
_NEAR = timedelta(days=31)  # a month overlaps those before and after it in other time zones
decode_statement = msgspec.json.Decoder(Statement[str]).decode


class Issued(NamedTuple):
    """A statement as it was issued.

    Attributes:
        listed: What a list says of it.
        month: The first day of its month.
        document: The statement as it is sent, byte for byte.
        buckets: The buckets of the pieces that it was put together from.
        runs: The run of each.
    """

    listed: IssuedStatement[str]
    month: date
    document: bytes
    buckets: Sequence[datetime]
    runs: Sequence[int]

    @property
    def reference(self) -> StatementReference[str]:
        """What the next statement of the month says of it."""
        each = self.listed
        return StatementReference(number=each.number, digest=each.digest, issued_at=each.issued_at, total=each.total)

    def read(self) -> Statement[str]:
        """The document, decoded."""
        return decode_statement(self.document)


async def latest_issued(connection: Connection, month: Month) -> Issued | None:
    """The statement of a month that was issued last; None without any."""
    row = await connection.fetchrow(_QUERIES["latest_issued"], *month.key)
    return None if row is None else _issued(month.customer_id, row)


async def latest_listed(connection: Connection, month: Month) -> IssuedStatement[str] | None:
    """What a list says of the statement of a month that was issued last; None without any."""
    row = await connection.fetchrow(_QUERIES["latest_listed"], *month.key)
    return None if row is None else _listed(month.customer_id, row)


async def latest_of_customers(
    connection: Connection, customer_ids: Sequence[str], month: Month
) -> dict[str, IssuedStatement[str]]:
    """What a list says of the statement of a month that was issued last to each of these customers, if one was."""
    rows = await connection.fetch(_QUERIES["latest_of_customers"], customer_ids, *month.key[1:])
    return {row["customer_id"]: _listed(row["customer_id"], row) for row in rows}


async def find_issued(
    connection: Connection, customer_id: str, *, number: int | None = None, digest: bytes | None = None
) -> Issued | None:
    """The statement of a customer with a number, or the last one with a digest; None without such a one."""
    row = await connection.fetchrow(_QUERIES["find_issued"], customer_id, number, digest)
    return None if row is None else _issued(customer_id, row)


async def list_issued(connection: Connection, customer_id: str, after: int, limit: int) -> list[IssuedStatement[str]]:
    """At most `limit` statements of a customer with numbers above `after`, in their order."""
    rows = await connection.fetch(_QUERIES["list_issued"], customer_id, after, limit)
    return [_listed(customer_id, row) for row in rows]


async def overlapping_issue(connection: Connection, month: Month) -> Month | None:
    """A month that was issued to the customer in another time zone, and has a part of this one; None without any."""
    before = max(month.first, date.min + _NEAR) - _NEAR
    found = (month.customer_id, before, month.first + _NEAR, month.timezone)
    rows = await connection.fetch(_QUERIES["other_zones"], *found)
    others = (month_of(month.customer_id, row["month"], row["timezone"]) for row in rows)
    return next((other for other in others if other.start < month.end and month.start < other.end), None)


async def last_number(connection: Connection, customer_id: str) -> int:
    """The number of the statement that was issued last to a customer; 0 without any."""
    number: int = await connection.fetchval(_QUERIES["last_number"], customer_id)
    return number


async def add_issued(connection: Connection, issued: Issued) -> bool:
    """Store a statement. Returns whether its number was free."""
    listed = issued.listed
    number = await connection.fetchval(
        _QUERIES["add_issued"],
        listed.customer_id,
        listed.number,
        issued.month,
        listed.timezone,
        bytes.fromhex(listed.digest),
        listed.issued_at,
        key_id_bytes(listed.issued_by),
        listed.total.records,
        listed.total.amount,
        listed.total.rounded,
        issued.document,
        issued.buckets,
        issued.runs,
    )
    return number is not None


def _issued(customer_id: str, row: asyncpg.Record) -> Issued:
    return Issued(_listed(customer_id, row), row["month"], row["document"], row["buckets"], row["runs"])


def _listed(customer_id: str, row: asyncpg.Record) -> IssuedStatement[str]:
    return IssuedStatement(
        customer_id=customer_id,
        number=row["number"],
        month=row["month"].isoformat()[:7],
        timezone=row["timezone"],
        digest=row["digest"].hex(),
        issued_at=row["issued_at"],
        issued_by=key_name(row["issued_by"]),
        signature=row["signature"],
        total=StatementTotal(records=row["records"], amount=row["amount"], rounded=row["rounded"]),
    )
