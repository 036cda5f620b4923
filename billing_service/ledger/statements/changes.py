"""What changed in a month since a statement of it: the lines that differ, and the records that came and went.

Since statements that were issued by number the answer is exact, whatever clocks said: the sets of leaves are compared,
piece by piece. Those that earlier versions kept by the digest of request ids noted times instead.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

from billing_client.contract.periods import Month
from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.statements.digests import PIECE
from billing_client.contract.statements.structs import DigestKind, StatementChanges, StatementLine
from billing_client.contract.totals import line_changes, statement_total, total_change
from billing_client.contract.wire import UsageRecord, VoidedUsage
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.loop_slices import in_slices
from billing_service.ledger.records import record_of, voided_of
from billing_service.ledger.statements.issued import Issued, find_issued
from billing_service.ledger.statements.months import MAX_LISTED, MonthContent, voided_after
from billing_service.ledger.statements.pieces import QUERIES, Piece, ids_of, read_spans
from billing_service.ledger.statements.refreshing import span_difference, stored_leaves

_STATEMENTS = load_queries("statements")
_decode_lines = msgspec.json.Decoder(list[StatementLine[str]]).decode


class _Earlier(NamedTuple):
    """What is known of an earlier statement."""

    digest: str
    kind: DigestKind
    number: int | None
    issued_at: datetime
    lines: list[StatementLine[str]]


class _Records(NamedTuple):
    recorded: list[UsageRecord[str]]
    voided: list[VoidedUsage[str]]
    more: bool


async def changes_since(
    connection: Connection, content: MonthContent, since: bytes, currency: str
) -> StatementChanges[str]:
    """What changed since the statement with a digest.

    Args:
        connection: The connection that the content was read on, in the same transaction.
        content: The month as it stands.
        since: The digest, 32 bytes.
        currency: The ISO 4217 code of the currency.

    Raises:
        ProblemError: 404; no such statement of this month and time zone was issued.
    """
    month = content.month
    issued = await find_issued(connection, month.customer_id, digest=since)
    if issued is not None and (issued.month, issued.listed.timezone) == (month.first, month.timezone):
        return await changes_since_issue(connection, content, issued, currency)
    row = await connection.fetchrow(_STATEMENTS["find_statement"], *month.key, since)
    if row is None:
        detail = (
            f"No statement of {month.first:%Y-%m} in {month.timezone} with this digest was issued to this customer."
        )
        raise ProblemError(problem("statement_not_found", detail))
    earlier = _Earlier(since.hex(), "request-ids.v1", None, row["issued_at"], _decode_lines(row["lines"]))
    records = await _by_times(connection, month, row)
    return await asyncio.to_thread(_changes, content, earlier, records, currency)


async def changes_since_issue(
    connection: Connection, content: MonthContent, issued: Issued, currency: str
) -> StatementChanges[str]:
    """What changed since a statement that was issued by number."""
    statement, listed = issued.read(), issued.listed
    lines = statement.lines + statement.credits
    earlier = _Earlier(listed.digest, statement.digest_kind, listed.number, listed.issued_at, lines)
    added, removed = await _compare(connection, content, dict(zip(issued.buckets, issued.runs, strict=True)))
    records = await _read(connection, content.month, added, removed)
    return await asyncio.to_thread(_changes, content, earlier, records, currency)


def _changes(content: MonthContent, earlier: _Earlier, records: _Records, currency: str) -> StatementChanges[str]:
    minor_unit, lines = MINOR_UNITS[currency], content.all_lines
    before, after = (statement_total(each, minor_unit) for each in (earlier.lines, lines))
    return StatementChanges(
        since=earlier.digest,
        digest_kind=earlier.kind,
        number=earlier.number,
        issued_at=earlier.issued_at,
        lines=line_changes(earlier.lines, lines),
        total=total_change(before, after, minor_unit),
        recorded=records.recorded,
        voided=records.voided,
        more=records.more,
    )


async def _compare(
    connection: Connection, content: MonthContent, before: dict[datetime, int]
) -> tuple[set[bytes], set[bytes]]:
    """The request ids of what counts now and did not then, and of what counted then and does not now.

    `before` are the runs of the pieces that the earlier statement was put together from, by bucket.
    """
    month = content.month
    added: set[bytes] = set()
    removed: set[bytes] = set()
    stored = [piece for piece in content.pieces if piece.run is not None and piece.is_whole and piece.bucket in before]
    for row in await _run_changes(connection, month.customer_id, stored, before):
        gone = set(ids_of(row["removed"]))
        removed |= gone - added
        added = (added | set(ids_of(row["added"]))) - gone
    added |= {row["request_id"] for piece in stored for row in piece.arrivals}
    known = {piece.bucket for piece in stored}
    others = [piece for piece in content.pieces if piece.bucket not in known]
    unread = [piece for piece in others if piece.span is None]
    read = dict(zip([piece.bucket for piece in unread], await _spans(connection, month, unread), strict=True))
    for piece in others:
        run = before.get(piece.bucket)
        leaves = [] if run is None else await stored_leaves(connection, month.customer_id, piece.bucket, run)
        difference = span_difference(piece.span or read[piece.bucket], set(leaves))
        added.update(difference.added)
        removed.update(difference.removed)
    return added, removed


async def _run_changes(
    connection: Connection, customer_id: str, pieces: Sequence[Piece], before: dict[datetime, int]
) -> list[asyncpg.Record]:
    changed = [piece for piece in pieces if piece.run != before[piece.bucket]]
    if not changed:
        return []
    buckets = [piece.bucket for piece in changed]
    runs = [before[bucket] for bucket in buckets], [piece.run for piece in changed]
    return await connection.fetch(QUERIES["run_changes"], customer_id, buckets, *runs)


async def _spans(connection: Connection, month: Month, pieces: Sequence[Piece]) -> list[asyncpg.Record]:
    spans = [(max(piece.bucket, month.start), min(piece.bucket + PIECE, month.end)) for piece in pieces]
    return await read_spans(connection, month.customer_id, spans)


async def _read(connection: Connection, month: Month, added: Collection[bytes], removed: Collection[bytes]) -> _Records:
    """The records with some request ids: the last MAX_LISTED that came, and the last that went, in order."""
    limit = MAX_LISTED + 1
    recorded = await connection.fetch(_STATEMENTS["recorded_among"], month.customer_id, list(added), limit)
    voided = await connection.fetch(_STATEMENTS["voided_among"], month.customer_id, list(removed), limit)
    return await _listed(recorded, voided)


async def _by_times(connection: Connection, month: Month, row: asyncpg.Record) -> _Records:
    """What was recorded and voided since a statement that noted the time up to which all was visible to it, and the
    records that were later and visible too."""
    arguments = (*month.range, row["settled_at"], row["recently_recorded"], MAX_LISTED + 1)
    recorded = await connection.fetch(_STATEMENTS["recorded_after"], *arguments)
    voids = await voided_after(connection, month, row["settled_at"], row["recently_voided"])
    listed = await _listed(recorded, [])
    return _Records(listed.recorded, voids.data, listed.more or voids.more)


async def _listed(recorded: Sequence[asyncpg.Record], voided: Sequence[asyncpg.Record]) -> _Records:
    return _Records(
        [record_of(row) async for part in in_slices(recorded[MAX_LISTED - 1 :: -1]) for row in part],
        [voided_of(row) async for part in in_slices(voided[MAX_LISTED - 1 :: -1]) for row in part],
        max(len(recorded), len(voided)) > MAX_LISTED,
    )
