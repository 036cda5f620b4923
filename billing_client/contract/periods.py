"""The hours, days and months of a time zone, and the queries of summaries and statements, which are about them.

Periods follow each other without a gap, so each instant is in one hour, one day and one month:

- A day begins when the zone's clock first shows its midnight, or skips past it. A clock that is turned back over
  midnight does not bring the day before back. A month begins with its first day.
- An hour is a full hour on the clock at one offset from UTC. The hour that comes twice in autumn is two hours, and a
  change of the offset within an hour ends it.
"""

import re
from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from billing_client.contract.problems import ProblemError, excerpt, invalid, invalid_input
from billing_client.contract.query_parameters import DIMENSION, StatementQuery, SummaryQuery
from billing_client.contract.request_parsing import check_timezone, read_span
from billing_client.contract.wire import DimensionName, FieldError

PeriodUnit = Literal["hour", "day", "month"]
_UNITS: tuple[PeriodUnit, ...] = ("hour", "day", "month")  # the finest first: its periods lie within the others'
MAX_GROUP_DIMENSIONS = 2
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_MINUTE, _SECOND = timedelta(minutes=1), timedelta(seconds=1)
_FIRST = datetime(1, 1, 1, 0, 0, 1, tzinfo=UTC)  # the second before is -infinity to asyncpg
_MONTH = re.compile(r"(?!0000|9999)([0-9]{4})-(0[1-9]|1[0-2])")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Period(NamedTuple):
    """An hour, day or month of a time zone, in UTC: `start` is in, `end` is out."""

    start: datetime
    end: datetime


class Grouping(Struct, frozen=True):
    """What a summary is asked to tell apart: services, the finest of hour, day and month in a time zone, and the values
    of up to MAX_GROUP_DIMENSIONS dimensions."""

    service: bool
    period: PeriodUnit | None
    timezone: str
    dimensions: tuple[str, ...] = ()


class SummaryRequest(Struct, frozen=True):
    """What a summary is asked for; `from_` and `to` are None where not given. `filters` are the names of dimensions,
    and the values that they must have."""

    start: datetime
    end: datetime
    from_: datetime | None
    to: datetime | None
    grouping: Grouping
    members: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()


class Month(Struct, frozen=True):
    """A customer's month in a time zone: `start` is in, `end` is out."""

    customer_id: str
    first: date
    timezone: str
    start: datetime
    end: datetime

    @property
    def key(self) -> tuple[str, date, str]:
        """What names its statements."""
        return self.customer_id, self.first, self.timezone

    @property
    def range(self) -> tuple[str, datetime, datetime]:
        """Where its records are."""
        return self.customer_id, self.start, self.end


def read_summary_query(query: SummaryQuery) -> SummaryRequest:
    """Read the query of a summary. Raises ProblemError."""
    members = tuple(query.group_by.split(",")) if query.group_by else ()
    names = tuple(dict.fromkeys(each.removeprefix(DIMENSION) for each in members if each.startswith(DIMENSION)))
    known = (
        "service",
        *_UNITS,
        *(f"{DIMENSION}{name}" for name in names if _may_be_recorded(name)),
    )
    if unknown := [member for member in members if member not in known]:
        what = "takes service, hour, day, month and dimensions such as dimension.model"
        raise invalid_input("query/groupBy", f"holds {excerpt(unknown[0])!r}, but {what}")
    if len(names) > MAX_GROUP_DIMENSIONS:
        raise invalid_input("query/groupBy", f"must name at most {MAX_GROUP_DIMENSIONS} dimensions")
    period = next((unit for unit in _UNITS if unit in members), None)
    start, end = read_span(query.from_, query.to)
    zone = check_timezone(query.timezone)
    grouping = Grouping(service="service" in members, period=period, timezone=zone, dimensions=names)
    filters = tuple(sorted(query.dimensions.items()))
    return SummaryRequest(start, end, query.from_ and start, query.to and end, grouping, members, filters)


def _may_be_recorded(name: str) -> bool:
    """Whether usage may have a dimension of this name."""
    try:
        msgspec.convert(name, DimensionName)
    except msgspec.ValidationError:
        return False
    return True


def read_statement_query(customer_id: str, query: StatementQuery) -> Month:
    """The month that a statement is asked for. Raises ProblemError with all the faults of the query."""
    errors = []
    if query.since is not None and not _DIGEST.fullmatch(query.since):
        errors.append(FieldError(pointer="query/since", message="must be a digest: 64 lower-case hex digits"))
    return read_month(customer_id, query.month, query.timezone, "query/", errors)


def read_month(customer_id: str, month: str, timezone: str, where: str, errors: Sequence[FieldError] = ()) -> Month:
    """A month of a customer, as a caller named it.

    Args:
        customer_id: The customer.
        month: The month, such as 2026-11.
        timezone: The name of a time zone in the IANA database.
        where: What stands before the names of the two in the pointer of a fault: `query/`, or `/` for a body.
        errors: Other faults of the request.

    Raises:
        ProblemError: 400, with all the faults.
    """
    faults = []
    if not _MONTH.fullmatch(month):
        message = "must be a month such as 2026-11, from 0001-01 to 9998-12"
        faults.append(FieldError(pointer=f"{where}month", message=message))
    try:
        check_timezone(timezone)
    except ProblemError as error:
        faults += [FieldError(pointer=f"{where}timezone", message=each.message) for each in error.details.errors or []]
    if faults or errors:
        raise ProblemError(invalid([*faults, *errors]))
    return month_of(customer_id, date.fromisoformat(f"{month}-01"), timezone)


def month_of(customer_id: str, first: date, timezone: str) -> Month:
    """The month that begins with a day, in a known time zone."""
    zone = ZoneInfo(timezone)
    return Month(customer_id, first, timezone, start_of_day(first, zone), start_of_day(_following_month(first), zone))


def periods_between(start: datetime, end: datetime, unit: PeriodUnit, zone: ZoneInfo) -> Iterator[Period]:
    """The periods that have a part in the time from `start` to `end`, in order; the first and last may reach beyond."""
    while start < end:
        period = period_at(start, unit, zone)
        yield period
        start = period.end


def period_at(instant: datetime, unit: PeriodUnit, zone: ZoneInfo) -> Period:
    """The hour, day or month that holds an instant of UTC, from the second day of year 1 to the year 9998."""
    if unit == "hour":
        return _hour_at(instant, zone)
    day = day_at(instant, zone)
    if unit == "day":
        return Period(start_of_day(day, zone), start_of_day(day + DAY, zone))
    first = day.replace(day=1)
    return Period(start_of_day(first, zone), start_of_day(_following_month(first), zone))


def day_at(instant: datetime, zone: ZoneInfo) -> date:
    """The day that holds an instant: the date on the clock, or the next where that has begun already."""
    shown = instant.astimezone(zone).date()
    return shown + DAY if start_of_day(shown + DAY, zone) <= instant else shown


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which a day begins. One that begins before year 1 does in UTC begins with that."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone, fold=0)  # the first, where it comes twice
    try:
        start = midnight.astimezone(UTC)
    except OverflowError:
        return _FIRST
    if start.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return start
    # The clock skips midnight. Python (PEP 495) converts it by the offset after the change for fold=1, and by the one
    # before it for fold=0, so the change is between the two.
    return _change(midnight.replace(fold=1).astimezone(UTC), start, zone)


def period_labels(start: datetime, members: Container[str], zone: ZoneInfo) -> dict[str, str]:
    """What those of hour, day and month that are in `members` call the period that begins at `start`."""
    labels = {}
    if "hour" in members:
        labels["hour"] = _hour_label(start, zone)
    if "day" in members or "month" in members:
        day = day_at(start, zone).isoformat()
        labels |= {member: label for member, label in (("day", day), ("month", day[:7])) if member in members}
    return labels


def _hour_label(start: datetime, zone: ZoneInfo) -> str:
    """The full hour on the clock at an instant, in RFC 3339.

    Its offsets have whole minutes (section 5.6), but some of the past have seconds (Monrovia until 1972: -00:44:30).
    These are rounded up, and the clock is put forward with them: so the label still names the instant at which the hour
    begins, and still shows this hour (00:00:30-00:44).
    """
    offset = _offset(start, zone)
    hour = (start + offset).replace(minute=0, second=0) - offset
    return hour.astimezone(timezone(-(-offset // _MINUTE) * _MINUTE)).isoformat()


def _following_month(first: date) -> date:
    return date(first.year + first.month // 12, first.month % 12 + 1, 1)


def _hour_at(instant: datetime, zone: ZoneInfo) -> Period:
    instant = instant.replace(microsecond=0)
    offset = _offset(instant, zone)
    start = (instant + offset).replace(minute=0, second=0) - offset
    end = start + HOUR
    if _offset(start, zone) != offset:
        start = _change(start, instant, zone)
    if _offset(end - _SECOND, zone) != offset:
        end = _change(instant, end - _SECOND, zone)
    return Period(start, end)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """When the offset from UTC, which changes once between two instants, changes: on a whole second, as all do."""
    offset = _offset(after, zone)
    seconds = range((after - before) // _SECOND)
    return before + _SECOND * bisect_left(seconds, True, key=lambda s: _offset(before + s * _SECOND, zone) == offset)
