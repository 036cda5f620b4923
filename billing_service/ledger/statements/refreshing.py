"""Brings stored pieces up to date, slice by slice: by the worker as time passes, and before a statement is issued."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from billing_client.contract.statements.digests import PIECE
from billing_client.contract.statements.merkle import split_hashes
from billing_service.database.pool import Connection, Database
from billing_service.ledger.periods import ceil, floor
from billing_service.ledger.rollups import EARLIEST
from billing_service.ledger.statements.lines import Lines, add_arrays, add_records
from billing_service.ledger.statements.parts import ALL, keep_parts
from billing_service.ledger.statements.pieces import MIN_PART, QUERIES, Piece, ids_of, read_pieces, without_jit

_log = logging.getLogger(__name__)
SLICE_RECORDS = 10_000  # that are hashed in a transaction, in 100 ms or so
BUSY_SECONDS = 0.05  # until another program is done with its slice, or a few of these


class Progress(NamedTuple):
    """How far the pieces of some time are prepared: of how many records, and of how many of them."""

    records: int
    prepared: int

    @property
    def is_done(self) -> bool:
        return self.prepared == self.records


async def refresh_slices(
    database: Database, customer_id: str, start: datetime, end: datetime, until: float
) -> Progress:
    """Bring the pieces of the time from `start` to `end` up to date, slice by slice, and keep the parts of those that
    are cut there.

    Args:
        database: Where they are.
        customer_id: Whose usage.
        start: When the first begins, or before its end.
        end: When the last one ends, or after its begin.
        until: When to stop after a slice, on the event loop's clock.

    Raises:
        DatabaseUnavailableError: The database is away.
    """
    now = asyncio.get_running_loop().time
    while True:
        async with database.connection() as connection:
            progress = await refresh_slice(connection, customer_id, start, end)
        if progress is not None and (progress.is_done or now() > until):
            return progress
        if progress is None:
            await asyncio.sleep(BUSY_SECONDS)


async def refresh_slice(
    connection: Connection, customer_id: str, start: datetime, end: datetime, max_records: int = SLICE_RECORDS
) -> Progress | None:
    """Bring at least one of the pieces up to date, and others as long as at most `max_records` are hashed.

    None if another program is at work on this customer's.
    """
    try:
        async with connection.transaction(isolation="repeatable_read"):
            if not await connection.fetchval(QUERIES["try_lock"], customer_id):
                return None
            return await refresh(connection, customer_id, start, end, max_records)
    except asyncpg.SerializationError:  # another program did the same
        return None


async def refresh(
    connection: Connection, customer_id: str, start: datetime, end: datetime, max_records: int
) -> Progress:
    """As `refresh_slice`, in a transaction that reads one snapshot. Raises asyncpg.SerializationError."""
    await without_jit(connection)
    first, last = max(floor(start, PIECE), EARLIEST), ceil(end, PIECE)
    rows = await connection.fetch(QUERIES["read_pieces"], customer_id, first, last)
    records = sum(row["records"] for row in rows)
    left, is_added = [row for row in rows if _is_behind(row)], False
    while left and not is_added:  # pieces of records that were changed stay behind, and keep no others from their turn
        chosen = _slice(left, max_records)
        left = left[len(chosen) :]
        pieces = await read_pieces(connection, customer_id, chosen[0], chosen[-1] + PIECE, max_records=ALL)
        for piece in pieces:
            if piece.bucket in chosen:
                is_added |= await _add_run(connection, customer_id, piece)
    if not left:
        large = {row["bucket"] for row in rows if row["records"] >= MIN_PART}
        await keep_parts(connection, customer_id, start, end, large)
    unprepared = sum(max(1, row["records"]) for row in left)  # a piece of voided records alone is work too
    records = max(records, unprepared)
    return Progress(records, records - unprepared)


def _slice(behind: Sequence[asyncpg.Record], max_records: int) -> list[datetime]:
    """The first of some buckets, and those that follow as long as no more is to be hashed."""
    chosen: list[datetime] = []
    hashed = 0
    for row in behind:
        hashed += _to_read(row)
        if chosen and hashed > max_records:
            break
        chosen.append(row["bucket"])
    return chosen


def _is_behind(row: asyncpg.Record) -> bool:
    return row["run"] is None or (row["piece_records"], row["piece_voided"]) != (row["records"], row["voided"])


def _to_read(row: asyncpg.Record) -> int:
    """About how many records have to be read to bring a piece up to date: late arrivals, or all."""
    if row["run"] is None or row["piece_voided"] != row["voided"]:
        return int(row["records"])
    return max(1, int(row["records"] - row["piece_records"]))


class _Run(NamedTuple):
    """What is stored of a run beside what its piece says: see the table `usage_pieces`."""

    last_request_id: bytes | None
    is_whole: bool
    leaves: bytes
    added: bytes
    removed: bytes
    voids: bytes
    lines: Lines


async def _add_run(connection: Connection, customer_id: str, piece: Piece) -> bool:
    """Add a run to a piece. False if there is none to add: records were changed."""
    run = await (_appended if piece.span is None else _whole)(connection, customer_id, piece)
    if run is None:
        return False
    keys = list(run.lines)
    await connection.execute(
        QUERIES["add_piece"],
        customer_id,
        piece.bucket,
        0 if piece.newest is None else piece.newest + 1,
        piece.records,
        piece.voided,
        piece.tree.root(),
        piece.tree.subtrees,
        piece.first,
        piece.last,
        run.last_request_id,
        run.is_whole,
        run.leaves,
        run.added,
        run.removed,
        run.voids,
        [key.service for key in keys],
        [key.price for key in keys],
        [run.lines[key][0] for key in keys],
        [format(run.lines[key][1], "f") for key in keys],
    )
    return True


async def _appended(connection: Connection, customer_id: str, piece: Piece) -> _Run:
    """A run that adds late arrivals to the newest one."""
    before = await connection.fetchrow(QUERIES["piece_lines"], customer_id, piece.bucket, piece.newest)
    if before is None:
        raise RuntimeError("the newest run of a piece was read before")
    lines: Lines = {}
    await add_arrays(lines, [before])
    await add_records(lines, piece.arrivals)
    ids = [row["request_id"] for row in piece.arrivals]
    leaves = b"".join(row["hash"] for row in piece.arrivals)
    return _Run(ids[-1], False, leaves, b"".join(ids), b"", before["voids"], lines)


async def _whole(connection: Connection, customer_id: str, piece: Piece) -> _Run | None:
    """A run with all leaves of its bucket. None where a record that counted before is neither there nor voided."""
    span = piece.span
    if span is None:
        raise RuntimeError("a whole run is made of records that were read")
    added = removed = b""
    if piece.newest is not None:
        before = set(await stored_leaves(connection, customer_id, piece.bucket, piece.newest))
        difference = span_difference(span, before)
        if difference.unknown:
            _log.error(
                "customer %r, usage from %s: %d records are not as they were when they were hashed, or were deleted; "
                "run: billing-service verify",
                customer_id,
                piece.bucket.isoformat(),
                difference.unknown,
            )
            return None
        added, removed = b"".join(difference.added), b"".join(difference.removed)
    lines: Lines = {}
    await add_arrays(lines, [span])
    ids = span["ids"]
    return _Run(ids[-32:] or None, True, span["leaves"], added, removed, span["voids"], lines)


class Difference(NamedTuple):
    """The request ids that were added to a set of leaves, and those that were removed; and how many of the leaves are
    of no record that there is."""

    added: Sequence[bytes]
    removed: Sequence[bytes]
    unknown: int


def span_difference(span: asyncpg.Record, before: set[bytes]) -> Difference:
    """How the records that a span was read from differ from the leaves that counted before."""
    counted = dict(zip(split_hashes(span["leaves"]), ids_of(span["ids"]), strict=True))
    voided = dict(zip(split_hashes(span["voided_leaves"]), ids_of(span["voided_ids"]), strict=True))
    return Difference(
        added=[id_ for hash_, id_ in counted.items() if hash_ not in before],
        removed=[id_ for hash_, id_ in voided.items() if hash_ in before],
        unknown=len(before - counted.keys() - voided.keys()),
    )


async def stored_leaves(connection: Connection, customer_id: str, bucket: datetime, run: int) -> list[bytes]:
    """The leaves of a piece at a run, in their order."""
    rows: Iterable[asyncpg.Record] = await connection.fetch(QUERIES["stored_leaves"], customer_id, bucket, run)
    return [leaf for row in rows for leaf in split_hashes(row["leaves"])]
