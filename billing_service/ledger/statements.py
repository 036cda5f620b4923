"""Statements: a customer's month, read in one snapshot.

Every issued statement is saved under its digest, so that a later one can say what changed since.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
import msgspec

from billing_client.contract.periods import Month
from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.request_parsing import BEGINNING
from billing_client.contract.statements.structs import (
    Rounding,
    Statement,
    StatementChanges,
    StatementLine,
    StatementVoids,
    VoidedTotal,
)
from billing_client.contract.totals import line_changes, statement_total, total_change
from billing_client.contract.wire import UsageRecord
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.customers import require_customer
from billing_service.ledger.loop_slices import in_slices
from billing_service.ledger.records import record_of, voided_of

_QUERIES = load_queries("statements")
_encode_lines = msgspec.json.Encoder().encode
_decode_lines = msgspec.json.Decoder(list[StatementLine[str]]).decode
MAX_LISTED = 10_000  # records in each list of a statement
# A record may become visible this long after its time: the wait for its commit and the difference between two clocks
# are less.
UNSETTLED = timedelta(minutes=10)


class _Content(NamedTuple):
    """The content of a statement, without the changes since an earlier one."""

    lines: list[StatementLine[str]]
    late: list[StatementLine[str]]
    digest: bytes
    voids: StatementVoids[str]


class _Issue(NamedTuple):
    """A statement as it was issued.

    Everything recorded or voided up to `settled_at` was visible to it. Of what came later only the records in
    `recently_recorded` and `recently_voided` were.
    """

    issued_at: datetime
    lines: list[StatementLine[str]]
    settled_at: datetime
    recently_recorded: list[bytes]
    recently_voided: list[bytes]


async def issue_statement(
    connection: Connection, month: Month, currency: str, since: bytes | None, now: datetime
) -> Statement[str]:
    """Issue the statement of a month, and save it if it is new.

    Args:
        connection: A connection without an open transaction.
        month: The customer and the month.
        currency: The ISO 4217 code of the currency; its minor unit is what the total is rounded to.
        since: The digest of an earlier statement (SHA-256, 32 bytes) whose changes are wanted; None for none.
        now: The time of issue.

    Raises:
        ProblemError: 404; there is no such customer, or no such earlier statement.
    """
    minor_unit = MINOR_UNITS[currency]
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        customer = await require_customer(connection, month.customer_id)
        content = await _read_content(connection, month)
        known = await _find_issue(connection, month, content.digest)
        issue = known or await _new_issue(connection, month, content, now)
        changes = None if since is None else await _changes(connection, month, since, content.lines, minor_unit)
    return Statement(
        customer_id=customer.id,
        customer_name=customer.name,
        month=month.first.isoformat()[:7],
        timezone=month.timezone,
        from_=month.start,
        to=month.end,
        currency=currency,
        rounding=Rounding(mode="half_up", minor_unit=minor_unit),
        issued_at=known.issued_at if known else await _save_issue(connection, month, content.digest, issue),
        digest=content.digest.hex(),
        lines=content.lines,
        total=statement_total(content.lines, minor_unit),
        late=content.late,
        voided=content.voids,
        changes=changes,
    )


async def _read_content(connection: Connection, month: Month) -> _Content:
    rows = await connection.fetch(_QUERIES["statement_lines"], *month.range)
    return _Content(
        lines=[_line(row) async for part in in_slices(rows) for row in part],
        late=[_line(row, "late_") async for part in in_slices(rows) for row in part if row["late_records"]],
        digest=await connection.fetchval(_QUERIES["statement_digest"], *month.range),
        voids=await _voided_after(connection, month, BEGINNING),
    )


def _line(row: asyncpg.Record, part: str = "") -> StatementLine[str]:
    return StatementLine(
        service=row["service"],
        price_per_unit=row["price_per_unit"],
        records=row[f"{part}records"],
        units=row[f"{part}units"],
        amount=row[f"{part}amount"],
    )


async def _recorded_after(
    connection: Connection, month: Month, after: datetime, seen: Sequence[bytes] = ()
) -> tuple[list[UsageRecord[str]], bool]:
    """The month's records that were recorded after a time, without those in `seen`: the last MAX_LISTED in order.

    Also tells whether there are more.
    """
    rows = await connection.fetch(_QUERIES["recorded_after"], *month.range, after, seen, MAX_LISTED + 1)
    return [record_of(row) for row in rows[MAX_LISTED - 1 :: -1]], len(rows) > MAX_LISTED


async def _voided_after(
    connection: Connection, month: Month, after: datetime, seen: Sequence[bytes] = ()
) -> StatementVoids[str]:
    """The month's records that were voided after a time, without those in `seen`: the last MAX_LISTED in order."""
    rows = await connection.fetch(_QUERIES["voided_after"], *month.range, after, seen, MAX_LISTED + 1)
    records, amount = (rows[0]["total_records"], rows[0]["total_amount"]) if rows else (0, "0")
    return StatementVoids(
        data=[voided_of(row) for row in rows[MAX_LISTED - 1 :: -1]],
        more=len(rows) > MAX_LISTED,
        total=VoidedTotal(records=records, amount=amount),
    )


async def _find_issue(connection: Connection, month: Month, digest: bytes) -> _Issue | None:
    row = await connection.fetchrow(_QUERIES["find_statement"], *month.key, digest)
    if row is None:
        return None
    issued_at, lines, *recent = row
    return _Issue(issued_at, _decode_lines(lines), *recent)


async def _new_issue(connection: Connection, month: Month, content: _Content, now: datetime) -> _Issue:
    """What to save of a new statement. If more than MAX_LISTED records are recent, the recent window shrinks."""
    recorded, more = await _recorded_after(connection, month, now - UNSETTLED)
    voided = [(record.request_id, record.voided_at) for record in content.voids.data if record.voided_at is not None]
    settled_at = max(
        [now - UNSETTLED]
        + [record.recorded_at for record in recorded[:1] if more]
        + [voided_at for _, voided_at in voided[:1] if content.voids.more]
    )
    return _Issue(
        issued_at=now,
        lines=content.lines,
        settled_at=settled_at,
        recently_recorded=[bytes.fromhex(r.request_id) for r in recorded if r.recorded_at > settled_at],
        recently_voided=[bytes.fromhex(id_) for id_, voided_at in voided if voided_at > settled_at],
    )


async def _save_issue(connection: Connection, month: Month, digest: bytes, issue: _Issue) -> datetime:
    """Save an issued statement unless it was issued before. Returns when it was first issued."""
    lines = _encode_lines(issue.lines).decode()
    await connection.execute(_QUERIES["note_statement"], *month.key, digest, issue.issued_at, lines, *issue[2:])
    issued_at: datetime = await connection.fetchval(_QUERIES["find_statement"], *month.key, digest)
    return issued_at


async def _changes(
    connection: Connection, month: Month, since: bytes, lines: list[StatementLine[str]], minor_unit: int
) -> StatementChanges[str]:
    issue = await _find_issue(connection, month, since)
    if issue is None:
        detail = (
            f"No statement of {month.first:%Y-%m} in {month.timezone} with this digest was issued to this customer."
        )
        raise ProblemError(problem("statement_not_found", detail))
    recorded, more = await _recorded_after(connection, month, issue.settled_at, issue.recently_recorded)
    voids = await _voided_after(connection, month, issue.settled_at, issue.recently_voided)
    return StatementChanges(
        since=since.hex(),
        issued_at=issue.issued_at,
        lines=line_changes(issue.lines, lines),
        total=total_change(statement_total(issue.lines, minor_unit), statement_total(lines, minor_unit), minor_unit),
        recorded=recorded,
        voided=voids.data,
        more=more or voids.more,
    )
