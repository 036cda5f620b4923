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
MIN_PART = 200  # records; fewer of a piece that a month cuts are read faster than kept
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
        run: The stored run that it is, or is a part of, or that `arrivals` are added to; None where all was read from
            the records.
        newest: The newest stored run of the bucket; None without any.
        is_newest: Whether that has seen all of the bucket.
        arrivals: Late records that the run has not seen, in their order.
        span: What was read from the records, if it was (a row of `hash_spans`).
        part: What is stored of a part of the run (a row of `read_parts`); None for a whole piece.
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
    is_newest: bool
    arrivals: Sequence[asyncpg.Record]
    span: asyncpg.Record | None
    part: asyncpg.Record | None
    first: datetime | None
    last: datetime | None

    @property
    def is_whole(self) -> bool:
        """Whether it is not cut."""
        return self.end - self.start == PIECE

    @property
    def is_stored(self) -> bool:
        """Whether what is stored says all there is to it."""
        return self.run is not None and not self.arrivals

    @property
    def lacks_part(self) -> bool:
        """Whether it is a part that was read from the records, and had better be kept with its run."""
        return not self.is_whole and self.run is None and self.is_newest and self.records >= MIN_PART

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
    parts = await _read_parts(
        connection, customer_id, [row for row in rows if not _is_whole(row, start, end)], start, end
    )
    stored = [row for row in rows if _is_whole(row, start, end) or row["bucket"] in parts]
    arrivals = await _read_arrivals(connection, customer_id, stored)
    known = {row["bucket"] for row in stored if _is_up_to_date(row) or row["bucket"] in arrivals}
    unread = [row for row in rows if row["bucket"] not in known]
    running = {row["bucket"] for row in rows[-RUNNING:]}
    if sum(row["records"] for row in unread if row["bucket"] not in running) > max_records:
        total = sum(row["records"] for row in rows)
        raise NotPreparedError(total, total - sum(row["records"] for row in unread))
    spans = await read_spans(connection, customer_id, [_cut(row, start, end) for row in unread], late_from)
    by_bucket = dict(zip((row["bucket"] for row in unread), spans, strict=True))
    found = _Found(arrivals, by_bucket, parts)
    return await asyncio.to_thread(lambda: [_piece(row, _cut(row, start, end), found) for row in rows])


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


def _is_up_to_date(row: asyncpg.Record) -> bool:
    return row["run"] is not None and (row["piece_records"], row["piece_voided"]) == (row["records"], row["voided"])


async def _read_parts(
    connection: Connection, customer_id: str, rows: Iterable[asyncpg.Record], start: datetime, end: datetime
) -> dict[datetime, asyncpg.Record]:
    """What is stored of the parts from `start` to `end` of buckets that are cut there."""
    cut = [(row["bucket"], row["run"], *_cut(row, start, end)) for row in rows if row["run"] is not None]
    if not cut:
        return {}
    columns = map(list, zip(*cut, strict=True))
    return {row["bucket"]: row for row in await connection.fetch(QUERIES["read_parts"], customer_id, *columns)}


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


class _Found(NamedTuple):
    """What was read of buckets beside their rows: late arrivals, what was read from the records, and stored parts."""

    arrivals: dict[datetime, list[asyncpg.Record]]
    spans: dict[datetime, asyncpg.Record]
    parts: dict[datetime, asyncpg.Record]


def _piece(row: asyncpg.Record, cut: tuple[datetime, datetime], found: _Found) -> Piece:
    bucket, (start, end) = row["bucket"], cut
    span, part = found.spans.get(bucket), found.parts.get(bucket)
    arrivals = [late for late in found.arrivals.get(bucket, ()) if start <= late["occurred_at"] < end]
    if span is not None:
        tree, run, part = Frontier(), None, None
        tree.extend(split_hashes(span["leaves"]))
    else:
        tree, run = _stored_tree(row, part), row["run"]
        tree.extend(arrival["hash"] for arrival in arrivals)
    told = span or part or row
    first, last = told["first_recorded_at"], told["last_recorded_at"]
    if arrivals:
        first, last = first or arrivals[0]["recorded_at"], arrivals[-1]["recorded_at"]
    return Piece(
        bucket=bucket,
        start=start,
        end=end,
        records=tree.size,
        voided=row["voided"],
        tree=tree,
        run=run,
        newest=row["run"],
        is_newest=_is_up_to_date(row),
        arrivals=arrivals,
        span=span,
        part=part,
        first=first,
        last=last,
    )


def _stored_tree(row: asyncpg.Record, part: asyncpg.Record | None) -> Frontier:
    return (
        Frontier(row["piece_records"], row["subtrees"]) if part is None else Frontier(part["records"], part["subtrees"])
    )


async def sum_pieces(connection: Connection, customer_id: str, pieces: Sequence[Piece]) -> Lines:
    """What the lines of pieces add up to."""
    lines: Lines = {}
    stored = [(piece.bucket, piece.run) for piece in pieces if piece.run is not None and piece.part is None]
    if stored:
        buckets, runs = zip(*stored, strict=True)
        await add_rows(lines, await connection.fetch(QUERIES["sum_lines"], customer_id, list(buckets), list(runs)))
    await add_records(lines, [row for piece in pieces for row in piece.arrivals])
    await add_arrays(lines, [read for piece in pieces if (read := piece.span or piece.part) is not None])
    return lines


async def sum_late(connection: Connection, customer_id: str, pieces: Sequence[Piece], end: datetime) -> Lines:
    """What was recorded at `end` or later adds up to, in pieces that were read with `late_from=end`."""
    reaching = [piece for piece in pieces if piece.last is not None and piece.last >= end]
    entirely = [piece for piece in reaching if piece.span is None and piece.first is not None and piece.first >= end]
    lines = await sum_pieces(connection, customer_id, entirely)
    partly = [piece for piece in reaching if piece.span is None and piece not in entirely]
    if partly:
        within = partly[0].start, partly[-1].end
        buckets = [piece.bucket for piece in partly]
        await add_rows(lines, await connection.fetch(QUERIES["late_lines"], customer_id, buckets, end, *within))
    for piece in partly:
        first = max(end - SLIGHTLY_LATE, piece.start)
        if first < piece.end:
            rows = await connection.fetch(QUERIES["just_late_lines"], customer_id, first, piece.end, end)
            await add_rows(lines, rows)
    await add_arrays(lines, [piece.span for piece in reaching if piece.span is not None], "late_")
    return lines


def ids_of(joined: bytes) -> list[bytes]:
    """Request ids that were joined to one piece of bytes."""
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]
