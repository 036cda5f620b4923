"""The span of time that a customer's page shows: whole days of a time zone, both ends included."""

from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from billing_client.contract.periods import DAY, PeriodUnit, day_at, periods_between, start_of_day
from billing_service.console.formats import day_name
from billing_service.http.errors import invalid_input
from billing_service.rendering.formats import month_name

HOURS_UNTIL, DAYS_UNTIL = 2, 93  # spans of so many days are shown by hour and by day
MAX_BARS = 400  # in a longer span only the periods with usage are shown
_EARLIEST, _LATEST = date(2, 1, 1), date(9997, 12, 31)  # each has a month before and after


class Span(NamedTuple):
    """The days from `first` to `last` in a time zone; `start` is in, `end` is out."""

    first: date
    last: date
    zone: str

    @property
    def start(self) -> datetime:
        return start_of_day(self.first, ZoneInfo(self.zone))

    @property
    def end(self) -> datetime:
        return start_of_day(self.last + DAY, ZoneInfo(self.zone))

    @property
    def unit(self) -> PeriodUnit:
        """What a bar stands for."""
        days = (self.last - self.first).days + 1
        return "hour" if days <= HOURS_UNTIL else "day" if days <= DAYS_UNTIL else "month"

    @property
    def title(self) -> str:
        """The span in words: a month, a day, or from and to."""
        if self == month_of(self.first, self.zone):
            return month_name(self.first)
        first = f"{day_name(self.first)} {self.first.year}"
        return first if self.first == self.last else f"{first} to {day_name(self.last)} {self.last.year}"

    @property
    def month_before(self) -> "Span":
        return month_of(self.first.replace(day=1) - DAY, self.zone)

    @property
    def month_after(self) -> "Span":
        return month_of(self.first.replace(day=1) + timedelta(days=31), self.zone)

    def starts(self) -> list[datetime] | None:
        """When each period of `unit` begins; None if there are more than MAX_BARS."""
        starts = []
        for period in periods_between(self.start, self.end, self.unit, ZoneInfo(self.zone)):
            starts.append(period.start)
            if len(starts) > MAX_BARS:
                return None
        return starts


def month_of(day: date, zone: str) -> Span:
    """The month that holds a day."""
    first = day.replace(day=1)
    return Span(first, (first + timedelta(days=31)).replace(day=1) - DAY, zone)


def read_span(from_: str | None, to: str | None, zone: str, now: datetime) -> Span:
    """The span from one day (2026-11-30) to another, both included; by default this month. Raises ProblemError."""
    today = day_at(now, ZoneInfo(zone))
    first = read_day("from", from_) if from_ else (read_day("to", to) if to else today).replace(day=1)
    last = read_day("to", to) if to else max(first, month_of(first, zone).last)
    if last < first:
        raise invalid_input("query/to", "must not be before from")
    return Span(first, last, zone)


def read_day(name: str, text: str) -> date:
    """The day that a parameter holds. Raises ProblemError (400) if it is none."""
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise invalid_input(f"query/{name}", "must be a day such as 2026-11-30") from error
    if not _EARLIEST <= day <= _LATEST:
        raise invalid_input(f"query/{name}", "must be a day from 0002-01-01 to 9997-12-31")
    return day
