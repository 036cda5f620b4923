"""A customer's month as it stands, read in one snapshot. Nothing is written."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from billing_client.contract.periods import Month
from billing_client.contract.request_parsing import BEGINNING
from billing_client.contract.statements.digests import digest_of_pieces
from billing_client.contract.statements.structs import (
    Rounding,
    Statement,
    StatementLine,
    StatementReference,
    StatementVoids,
    VoidedTotal,
)
from billing_client.contract.totals import statement_total
from billing_client.contract.wire import Customer
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.customers import require_customer
from billing_service.ledger.loop_slices import encoded_in_slices, in_slices
from billing_service.ledger.records import voided_of
from billing_service.ledger.statements.lines import statement_lines
from billing_service.ledger.statements.pieces import MAX_READ, Piece, read_pieces, sum_late, sum_pieces

_QUERIES = load_queries("statements")
_encode = msgspec.json.Encoder().encode
MAX_LISTED = 10_000  # records in each list of a statement


class MonthContent(NamedTuple):
    """What a month holds. `pieces` are those in which something counts, or did."""

    customer: Customer
    month: Month
    pieces: list[Piece]
    digest: bytes
    lines: list[StatementLine[str]]
    credits: list[StatementLine[str]]
    late: list[StatementLine[str]]
    voids: StatementVoids[str]

    @property
    def lacking(self) -> list[tuple[datetime, datetime]]:
        """When the parts begin and end that had to be read from the records, and had better be kept."""
        return [(piece.start, piece.end) for piece in self.pieces if piece.lacks_part]

    @property
    def all_lines(self) -> list[StatementLine[str]]:
        """Those of credits too."""
        return self.lines + self.credits


async def read_month(connection: Connection, month: Month, max_records: int = MAX_READ) -> MonthContent:
    """Read a month.

    Args:
        connection: A connection in a transaction that reads one snapshot.
        month: The customer and the month.
        max_records: How many records may be hashed for what is not prepared.

    Raises:
        ProblemError: 404; there is no such customer.
        NotPreparedError: More records would have to be hashed.
    """
    customer = await require_customer(connection, month.customer_id)
    pieces = await read_pieces(connection, *month.range, max_records=max_records, late_from=month.end)
    counting = [piece for piece in pieces if piece.records]
    lines = await sum_pieces(connection, month.customer_id, counting)
    late = await sum_late(connection, month.customer_id, counting, month.end)
    return MonthContent(
        customer=customer,
        month=month,
        pieces=pieces,
        digest=digest_of_pieces(piece.root for piece in counting),
        lines=await statement_lines(lines, credits_=False),
        credits=await statement_lines(lines, credits_=True),
        late=await statement_lines(late, credits_=False) + await statement_lines(late, credits_=True),
        voids=await voided_after(connection, month, BEGINNING),
    )


async def voided_after(
    connection: Connection, month: Month, after: datetime, seen: Sequence[bytes] = ()
) -> StatementVoids[str]:
    """The month's records that were voided after a time, without those in `seen`: the last MAX_LISTED in order."""
    rows = await connection.fetch(_QUERIES["voided_after"], *month.range, after, seen, MAX_LISTED + 1)
    records, amount = (rows[0]["total_records"], rows[0]["total_amount"]) if rows else (0, "0")
    return StatementVoids(
        data=[voided_of(row) async for part in in_slices(rows[MAX_LISTED - 1 :: -1]) for row in part],
        more=len(rows) > MAX_LISTED,
        total=VoidedTotal(records=records, amount=amount),
    )


async def provisional_statement(
    content: MonthContent, currency: str, as_of: datetime, previous: StatementReference[str] | None
) -> Statement[str]:
    """The statement of a month that was not issued as it stands.

    Args:
        content: What the month holds.
        currency: The ISO 4217 code of the currency; its minor unit is what the total is rounded to.
        as_of: When it was read.
        previous: The statement of the month that was issued last.
    """
    month, minor_unit = content.month, MINOR_UNITS[currency]
    return Statement(
        customer_id=content.customer.id,
        customer_name=content.customer.name,
        month=month.first.isoformat()[:7],
        timezone=month.timezone,
        from_=month.start,
        to=month.end,
        currency=currency,
        rounding=Rounding(mode="half_up", minor_unit=minor_unit),
        status="provisional",
        as_of=as_of,
        previous=previous,
        digest=content.digest.hex(),
        digest_kind="merkle.v1",
        lines=content.lines,
        credits=content.credits,
        total=await asyncio.to_thread(statement_total, content.all_lines, minor_unit),
        late=content.late,
        voided=content.voids,
    )


async def encode_statement(statement: Statement[str]) -> bytes:
    """The statement as JSON. Its lists, which may be long, are encoded in slices."""
    lists = {"lines": statement.lines, "credits": statement.credits, "late": statement.late}
    encoded = {name: await encoded_in_slices(items) for name, items in lists.items() if items}
    voided = msgspec.structs.replace(statement.voided, data=await encoded_in_slices(statement.voided.data))
    return _encode(msgspec.structs.replace(statement, voided=voided, **encoded))
