"""Parts of pieces: what a statement has of a piece that its month cuts, kept with the run that it is a part of.

Months of most time zones do not begin and end at a third hour of UTC. Their statements have a part of the piece at each
end, which is read from the records unless it is kept. It is kept where somebody has asked for such a month and the part
has many records. A later run of the piece needs a part of its own.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from billing_client.contract.statements.digests import PIECE
from billing_service.database.pool import Connection
from billing_service.ledger.periods import ceil, floor
from billing_service.ledger.rollups import EARLIEST
from billing_service.ledger.statements.lines import Lines, add_arrays
from billing_service.ledger.statements.pieces import QUERIES, Piece, read_pieces

ALL = 1 << 62


async def keep_parts(
    connection: Connection, customer_id: str, start: datetime, end: datetime, buckets: Collection[datetime]
) -> None:
    """Keep the parts that the time from `start` to `end` has of pieces that are up to date.

    Args:
        connection: A connection in a transaction of one snapshot.
        customer_id: Whose usage.
        start: When the time begins.
        end: When it ends.
        buckets: The pieces that are looked at, by when they begin.
    """
    for bucket, first, last in _cuts(max(start, EARLIEST), end):
        if bucket in buckets:
            for piece in await read_pieces(connection, customer_id, first, last, max_records=ALL):
                if piece.lacks_part:
                    await _keep(connection, customer_id, piece)


def _cuts(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
    """The buckets that the time from `start` to `end` has a part of, each with when that begins and ends."""
    for bucket in dict.fromkeys((floor(start, PIECE), ceil(end, PIECE) - PIECE)):
        first, last = max(bucket, start), min(bucket + PIECE, end)
        if timedelta(0) < last - first < PIECE:
            yield bucket, first, last


async def _keep(connection: Connection, customer_id: str, piece: Piece) -> None:
    lines: Lines = {}
    if piece.span is None:
        raise RuntimeError("a part that lacks was read from the records")
    await add_arrays(lines, [piece.span])
    keys = list(lines)
    await connection.execute(
        QUERIES["add_part"],
        customer_id,
        piece.bucket,
        piece.newest,
        piece.start,
        piece.end,
        piece.records,
        piece.tree.subtrees,
        piece.first,
        piece.last,
        [key.service for key in keys],
        [key.price for key in keys],
        [lines[key][0] for key in keys],
        [format(lines[key][1], "f") for key in keys],
    )
