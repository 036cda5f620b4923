"""The periods of a time zone, and the sums and records that make them up.

Usage is summed up in whole grains of UTC, and periods begin where a zone has them begin. The usage of a period is that
before its end less that before its beginning, and numbers are exact: so a period takes the sums between the whole
grains next to its ends, and the little in between changes sides, in sums of a smaller grain, or record by record.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple
from zoneinfo import ZoneInfo

from billing_client.contract.periods import Period

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# quarters of an hour, which every zone is made of; three hours, which are few in a month and end near every midnight
GRAINS = (timedelta(hours=3), timedelta(minutes=15))
RECORDS = timedelta(0)


class Cut(NamedTuple):
    """Where one period ends and another begins, by their numbers; None is what no one asked for."""

    at: datetime
    before: int | None
    after: int | None


class Stretch(NamedTuple):
    """What lies from `start` to `end` in sums of a grain, or in records: one period gains it, another loses it."""

    grain: timedelta
    start: datetime
    end: datetime
    gains: int | None
    loses: int | None


def floor(instant: datetime, grain: timedelta) -> datetime:
    """The beginning of the whole grain that an instant lies in."""
    return EPOCH + (instant - EPOCH) // grain * grain


def cells(start: datetime, end: datetime, size: timedelta) -> list[datetime]:
    """Each whole grain that has part in the time from `start` to `end`."""
    first = floor(start, size)
    return [first + number * size for number in range(-((first - end) // size))]


def cut(
    cells: Iterable[datetime], size: timedelta, start: datetime, end: datetime, period: Period, zone: str
) -> tuple[list[Cut], list[datetime]]:
    """Where the periods in these cells of UTC begin and end, within `start` and `end`, and their beginnings by number.

    Between two cells that are not neighbours there must be no usage.
    """
    changes: dict[datetime, datetime] = {}
    for cell in cells:
        for at, begun in _beginnings(cell, cell + size, period, ZoneInfo(zone)):
            if max(at, start) < end:
                changes[max(at, start)] = begun
    numbers: dict[str, int] = {}
    cuts: list[Cut] = []
    periods: list[datetime] = []
    before = None
    for at, begun in changes.items():
        # the same hour of another offset is another hour, the same day is the same
        name = begun.isoformat() if period == "hour" else begun.date().isoformat()
        after = numbers.setdefault(name, len(periods))
        if after == len(periods):
            periods.append(begun)
        if after != before:
            cuts.append(Cut(at, before, after))
            before = after
    if before is not None:
        cuts.append(Cut(end, before, None))
    return cuts, periods


def _beginnings(start: datetime, end: datetime, period: Period, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """When each period from `start` to `end` takes over there, and when it began, in local time.

    In a day a zone changes its offset from UTC once at most.
    """
    changes = _change(start, end, zone)
    step = HOUR if period == "hour" else DAY
    for since, until in zip((start, *changes), (*changes, end), strict=True):
        offset = _offset(since, zone)
        at = since
        while at < until:
            begun = (at + offset).replace(tzinfo=timezone(offset), minute=0, second=0, microsecond=0)
            if period != "hour":
                begun = begun.replace(hour=0)
            yield at, begun.replace(day=1) if period == "month" else begun
            at = (begun + step).astimezone(UTC)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _change(start: datetime, end: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """When the zone changes its offset from UTC between two instants, to the second; nothing where it does not."""
    offset, second = _offset(start, zone), timedelta(seconds=1)
    if _offset(end - second, zone) == offset:
        return ()
    while end - start > second:
        middle = start + (end - start) // second // 2 * second
        start, end = (middle, end) if _offset(middle, zone) == offset else (start, middle)
    return (end,)


def stretches(cuts: Sequence[Cut], grains: Sequence[timedelta]) -> list[Stretch]:
    """What makes up the periods between the cuts, in these grains, the largest first, and in records."""
    whole, *finer = grains
    places = [_nearest(cut.at, whole) for cut in cuts]
    result = [
        Stretch(whole, start, end, cut.after, None)
        for start, end, cut in zip(places, places[1:], cuts, strict=False)
        if start < end and cut.after is not None
    ]
    for grain in (*finer, RECORDS):
        closer = [_nearest(cut.at, grain) if grain else cut.at for cut in cuts]
        for coarse, fine, cut in zip(places, closer, cuts, strict=True):
            if fine < coarse:
                result.append(Stretch(grain, fine, coarse, cut.after, cut.before))
            elif coarse < fine:
                result.append(Stretch(grain, coarse, fine, cut.before, cut.after))
        places = closer
    return result


def _nearest(instant: datetime, grain: timedelta) -> datetime:
    return floor(instant + grain / 2, grain)
