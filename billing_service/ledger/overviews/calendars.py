"""Two months of a time zone, day by day: this one, and the one before that it is compared with."""

from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from billing_client.contract.periods import DAY, day_at, start_of_day
from billing_service.ledger.periods import BUCKETS, floor

_MINUTE = timedelta(minutes=1)


class Calendar(NamedTuple):
    """Two months of a time zone.

    Attributes:
        now: The moment it was made at.
        zone: The name of the time zone.
        days: All days of the month before and of this month.
        bounds: When each of them begins, in UTC, and when the last one ends.
        first: The index of this month's first day.
        today: The index of today.
        minutes: The size of the largest rollups whose boundaries the bounds are on.
        comparable: The moment of the month before that corresponds to `now`: at a boundary of these rollups, and at
            most the end of that month.
    """

    now: datetime
    zone: str
    days: tuple[date, ...]
    bounds: tuple[datetime, ...]
    first: int
    today: int
    minutes: int
    comparable: datetime

    @property
    def cuts(self) -> list[datetime]:
        """The bounds, and the comparable moment between them."""
        return sorted({*self.bounds, self.comparable})


def calendar_of(now: datetime, zone: str) -> Calendar:
    """The calendar of the month that holds a moment."""
    info = ZoneInfo(zone)
    today = day_at(now, info)
    first = today.replace(day=1)
    before = (first - DAY).replace(day=1)
    end = (first + 31 * DAY).replace(day=1)
    days = tuple(before + n * DAY for n in range((end - before).days))
    bounds = tuple(start_of_day(day, info) for day in (*days, end))
    size = next((size for size in BUCKETS if all(floor(bound, size) == bound for bound in bounds)), min(BUCKETS))
    split, here = (first - before).days, (today - before).days
    same_day = min(here - split, split)
    comparable = min(floor(bounds[same_day] + (now - bounds[here]), size), bounds[split])
    return Calendar(now, zone, days, bounds, split, here, size // _MINUTE, comparable)
