"""Pieces: what a customer's usage of three hours of UTC adds up to, and the tree of its content hashes.

A piece is stored as a row for each time it was brought up to date, a run. It is up to date as long as it has seen as
many records, and as many voids, as the sums (rollups) of its bucket say; they are written with the records. What is not
up to date is completed in memory when it is read: with the records that came more than an hour late, for which there is
an index, and where that is not all that is missing, with all records of the bucket.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

from billing_client.contract.request_parsing import END
from billing_client.contract.statements.digests import PIECE, PieceRoot
from billing_client.contract.statements.merkle import HASH_BYTES, Frontier, split_hashes
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import ceil, floor
from billing_service.ledger.rollups import EARLIEST
from billing_service.ledger.statements.lines import Lines, add_arrays, add_records, add_rows

QUERIES = load_queries("pieces")
MAX_READ = 100_000  # records that a reading hashes by itself, in a second or so; what is more is prepared beforehand
RUNNING = 2  # buckets at the end that are read in any case: their time may not be over, so no piece of them stays true
MAX_ARRIVALS = 1_000  # late records of a bucket beyond which all of it is read again
SLIGHTLY_LATE = timedelta(hours=1)  # what is later is in the index of late records


class NotPreparedError(Exception):
    """More has to be hashed than a reading may take the time for.

    Attributes:
        records: How many records the statement is about.
        prepared: Of how many of them the pieces are there.
    """

    def __init__(self, records: int, prepared: int) -> None:
        super().__init__(f"{prepared} of {records} records are prepared")
        self.records = records
        self.prepared = prepared


class Piece(NamedTuple):
    """A piece as it is now, or the part of it that lies in a month.

    Attributes:
        bucket: When its three hours begin.
        start: When its part begins; the bucket, where it is whole.
        end: When its part ends.
        records: How many records count in it.
        voided: How many voids the sums have noted.
        tree: The tree of the records that count.
        run: The stored run that it is, or that `arrivals` are added to; None where all was read from the records.
        newest: The newest stored run of the bucket; None without any.
        arrivals: Late records that the run has not seen, in their order.
        span: What was read from the records, if it was (a row of `hash_spans`).
        first: When the first of its records was recorded; None without any.
        last: When the last of them was.
    """

    bucket: datetime
    start: datetime
    end: datetime
    records: int
    voided: int
    tree: Frontier
    run: int | None
    newest: int | None
    arrivals: Sequence[asyncpg.Record]
    span: asyncpg.Record | None
    first: datetime | None
    last: datetime | None

    @property
    def is_stored(self) -> bool:
        """Whether its newest run says all there is to it."""
        return self.run is not None and not self.arrivals

    @property
    def root(self) -> PieceRoot:
        """What stands for it in the digest."""
        return PieceRoot(self.start, self.records, self.tree.root())


async def read_pieces(
    connection: Connection,
    customer_id: str,
    start: datetime,
    end: datetime,
    *,
    max_records: int = MAX_READ,
    late_from: datetime = END,
) -> list[Piece]:
    """The pieces of the usage from `start` to `end`, in order of time, those in which nothing counts any more included.

    Args:
        connection: A connection in a transaction that reads one snapshot.
        customer_id: Whose usage.
        start: Where the first piece begins, or is cut.
        end: Where the last one ends, or is cut.
        max_records: How many records may be read for what is not stored.
        late_from: What is recorded from then on is late.

    Raises:
        NotPreparedError: More records would have to be read.
    """
    await without_jit(connection)
    until = max(start, min(ceil(end, PIECE), END))
    rows = await connection.fetch(QUERIES["read_pieces"], customer_id, floor(start, PIECE), until)
    arrivals = await _read_arrivals(connection, customer_id, [row for row in rows if _is_whole(row, start, end)])
    unread = [row for row in rows if not _is_known(row, start, end, arrivals)]
    running = {row["bucket"] for row in rows[-RUNNING:]}
    if sum(row["records"] for row in unread if row["bucket"] not in running) > max_records:
        total = sum(row["records"] for row in rows)
        raise NotPreparedError(total, total - sum(row["records"] for row in unread))
    spans = await read_spans(connection, customer_id, [_cut(row, start, end) for row in unread], late_from)
    by_bucket = dict(zip((row["bucket"] for row in unread), spans, strict=True))
    return await asyncio.to_thread(_pieces, rows, start, end, arrivals, by_bucket)


async def without_jit(connection: Connection) -> None:
    """Have no query compiled until the end of the transaction: it takes PostgreSQL longer than these take to run."""
    await connection.execute(QUERIES["without_jit"])


async def read_spans(
    connection: Connection, customer_id: str, spans: Iterable[tuple[datetime, datetime]], late_from: datetime = END
) -> list[asyncpg.Record]:
    """Hash the records of some spans of time: rows of `hash_spans`, in the order of the spans."""
    starts, ends = [*zip(*spans, strict=True)] or ([], [])
    if not starts:
        return []
    return await connection.fetch(QUERIES["hash_spans"], customer_id, list(starts), list(ends), late_from)


def _is_whole(row: asyncpg.Record, start: datetime, end: datetime) -> bool:
    """Whether a bucket lies in the time from `start` to `end` as a whole. Of year 1 only parts are read: the database
    driver takes its first instant for minus infinity."""
    bucket: datetime = row["bucket"]
    return start <= bucket and bucket + PIECE <= end and bucket >= EARLIEST


def _cut(row: asyncpg.Record, start: datetime, end: datetime) -> tuple[datetime, datetime]:
    return max(row["bucket"], start), min(row["bucket"] + PIECE, end)


def _is_known(
    row: asyncpg.Record, start: datetime, end: datetime, arrivals: dict[datetime, list[asyncpg.Record]]
) -> bool:
    """Whether the newest run and late arrivals say all there is to a bucket."""
    return _is_whole(row, start, end) and (_is_up_to_date(row) or row["bucket"] in arrivals)


def _is_up_to_date(row: asyncpg.Record) -> bool:
    return row["run"] is not None and (row["piece_records"], row["piece_voided"]) == (row["records"], row["voided"])


async def _read_arrivals(
    connection: Connection, customer_id: str, rows: Iterable[asyncpg.Record]
) -> dict[datetime, list[asyncpg.Record]]:
    """The late arrivals of the buckets of which nothing else is missing."""
    behind = {
        row["bucket"]: row
        for row in rows
        if row["run"] is not None
        and row["piece_voided"] == row["voided"]
        and 0 < row["records"] - row["piece_records"] <= MAX_ARRIVALS
        and row["last_request_id"] is not None
    }
    if not behind:
        return {}
    lasts = ([row[name] for row in behind.values()] for name in ("last_recorded_at", "last_request_id"))
    found: dict[datetime, list[asyncpg.Record]] = {}
    arguments = (customer_id, list(behind), *lasts, MAX_ARRIVALS + 1)
    for row in await connection.fetch(QUERIES["late_arrivals"], *arguments):
        found.setdefault(row["bucket"], []).append(row)
    return {
        bucket: late
        for bucket, late in found.items()
        if len(late) == behind[bucket]["records"] - behind[bucket]["piece_records"]
    }


def _pieces(
    rows: Iterable[asyncpg.Record],
    start: datetime,
    end: datetime,
    arrivals: dict[datetime, list[asyncpg.Record]],
    spans: dict[datetime, asyncpg.Record],
) -> list[Piece]:
    return [
        _piece(row, _cut(row, start, end), arrivals.get(row["bucket"], ()), spans.get(row["bucket"])) for row in rows
    ]


def _piece(
    row: asyncpg.Record,
    cut: tuple[datetime, datetime],
    arrivals: Sequence[asyncpg.Record],
    span: asyncpg.Record | None,
) -> Piece:
    if span is not None:
        tree, run = Frontier(), None
        tree.extend(split_hashes(span["leaves"]))
        first, last = span["first_recorded_at"], span["last_recorded_at"]
    else:
        tree, run = Frontier(row["piece_records"], row["subtrees"]), row["run"]
        tree.extend(arrival["hash"] for arrival in arrivals)
        first, last = row["first_recorded_at"], row["last_recorded_at"]
        if arrivals:
            first, last = first or arrivals[0]["recorded_at"], arrivals[-1]["recorded_at"]
    return Piece(row["bucket"], *cut, tree.size, row["voided"], tree, run, row["run"], arrivals, span, first, last)


async def sum_pieces(connection: Connection, customer_id: str, pieces: Sequence[Piece]) -> Lines:
    """What the lines of pieces add up to."""
    lines: Lines = {}
    stored = [(piece.bucket, piece.run) for piece in pieces if piece.run is not None]
    if stored:
        buckets, runs = zip(*stored, strict=True)
        await add_rows(lines, await connection.fetch(QUERIES["sum_lines"], customer_id, list(buckets), list(runs)))
    await add_records(lines, [row for piece in pieces for row in piece.arrivals])
    await add_arrays(lines, [piece.span for piece in pieces if piece.span is not None])
    return lines


async def sum_late(connection: Connection, customer_id: str, pieces: Sequence[Piece], end: datetime) -> Lines:
    """What was recorded at `end` or later adds up to, in pieces that were read with `late_from=end`."""
    reaching = [piece for piece in pieces if piece.last is not None and piece.last >= end]
    entirely = [piece for piece in reaching if piece.span is None and piece.first is not None and piece.first >= end]
    lines = await sum_pieces(connection, customer_id, entirely)
    partly = [piece.bucket for piece in reaching if piece.span is None and piece not in entirely]
    if partly:
        await add_rows(lines, await connection.fetch(QUERIES["late_lines"], customer_id, partly, end))
        last = partly[-1] + PIECE
        first = max(end - SLIGHTLY_LATE, partly[-1])
        if first < last:
            await add_rows(lines, await connection.fetch(QUERIES["just_late_lines"], customer_id, first, last, end))
    await add_arrays(lines, [piece.span for piece in reaching if piece.span is not None], "late_")
    return lines


def ids_of(joined: bytes) -> list[bytes]:
    """Request ids that were joined to one piece of bytes."""
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]
