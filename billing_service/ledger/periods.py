"""How a span of time is made up of rollups and records.

Usage is summed up in fixed buckets of UTC, of 3 hours and of 15 minutes. A span is the whole 3-hour buckets inside it,
15-minute buckets at both its edges, and single records where an edge is not on a quarter of an hour.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# quarters of an hour, which the periods of every zone are made of today; three hours, which are few in a month
BUCKETS = (timedelta(hours=3), timedelta(minutes=15))


class Piece(NamedTuple):
    """The buckets of a size from `start` to `end`; the single records, where the size is None."""

    size: timedelta | None
    start: datetime
    end: datetime


def floor(instant: datetime, size: timedelta) -> datetime:
    """The start of the bucket that holds an instant."""
    return EPOCH + (instant - EPOCH) // size * size


def ceil(instant: datetime, size: timedelta) -> datetime:
    """The start of the first bucket that begins at an instant or after it."""
    return EPOCH - (EPOCH - instant) // size * size


def split(start: datetime, end: datetime, sizes: Sequence[timedelta] = BUCKETS) -> Iterator[Piece]:
    """What makes up the time from `start` to `end`, in buckets of these sizes, the largest first, and in records."""
    if start >= end:
        return
    if not sizes:
        yield Piece(None, start, end)
        return
    size, *smaller = sizes
    first, last = ceil(start, size), floor(end, size)
    if first < last:
        yield from split(start, first, smaller)
        yield Piece(size, first, last)
        yield from split(last, end, smaller)
    else:
        yield from split(start, end, smaller)
