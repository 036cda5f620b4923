"""What a summary and a statement are asked for: which time, in which time zone, told apart by what."""

import re
from collections.abc import Container
from datetime import UTC, date, datetime, timezone
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from billing_client.contract.problems import ProblemError, invalid, invalid_input
from billing_client.contract.query_parameters import StatementQuery, SummaryQuery
from billing_client.contract.request_parsing import check_timezone, read_span
from billing_client.contract.wire import FieldError

Period = Literal["month", "day", "hour"]
_PERIODS: tuple[Period, ...] = ("hour", "day", "month")  # the finest first: its groups lie within the others'
_MONTH = re.compile(r"(?!0000|9999)([0-9]{4})-(0[1-9]|1[0-2])")
_FIRST = datetime(1, 1, 1, 0, 0, 1, tzinfo=UTC)  # the second before is -infinity to asyncpg
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Grouping(Struct, frozen=True):
    """What a summary is asked to tell apart: services, and the finest of hour, day and month in a time zone."""

    service: bool
    period: Period | None
    timezone: str


class Asked(Struct, frozen=True):
    """A summary's query, read; `from_` and `to` are None where not given."""

    start: datetime
    end: datetime
    from_: datetime | None
    to: datetime | None
    grouping: Grouping
    members: tuple[str, ...]


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


def read_summary_query(query: SummaryQuery) -> Asked:
    """What a summary is asked for. Raises ProblemError."""
    members = tuple(query.group_by.split(",")) if query.group_by else ()
    if unknown := [member for member in members if member not in ("service", *_PERIODS)]:
        raise invalid_input("query/groupBy", f"holds {unknown[0]!r}, but takes service, hour, day and month")
    period = next((period for period in _PERIODS if period in members), None)
    start, end = read_span(query.from_, query.to)
    grouping = Grouping(service="service" in members, period=period, timezone=check_timezone(query.timezone))
    return Asked(start, end, query.from_ and start, query.to and end, grouping, members)


def period_labels(start: datetime, local: datetime, members: Container[str]) -> dict[str, str]:
    """What `members` call the period that begins at `start`, which is the time `local` in the zone asked for."""
    offset = timezone(local.replace(tzinfo=UTC) - start)
    day = local.date().isoformat()
    labels = {"hour": local.replace(tzinfo=offset).isoformat(), "day": day, "month": day[:7]}
    return {member: label for member, label in labels.items() if member in members}


def read_statement_query(customer_id: str, query: StatementQuery) -> Month:
    """The month that a statement is asked for. Raises ProblemError with all the faults of the query."""
    errors = []
    if not _MONTH.fullmatch(query.month):
        message = "must be a month such as 2026-11, from 0001-01 to 9998-12"
        errors.append(FieldError(pointer="query/month", message=message))
    if query.since is not None and not _DIGEST.fullmatch(query.since):
        errors.append(FieldError(pointer="query/since", message="must be a digest: 64 lower-case hex digits"))
    try:
        check_timezone(query.timezone)
    except ProblemError as error:
        errors += error.details.errors or []
    if errors:
        raise ProblemError(invalid(errors))
    zone, first = ZoneInfo(query.timezone), date.fromisoformat(f"{query.month}-01")
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return Month(customer_id, first, query.timezone, _midnight(first, zone), _midnight(following, zone))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins. An hour that comes twice counts from the first time, one that is left out not at all."""
    return to_utc(datetime(day.year, day.month, day.day, tzinfo=zone, fold=0))


def to_utc(local: datetime) -> datetime:
    """The instant of a local time. Where the first month begins before year 1 does in UTC, it begins with that."""
    try:
        return local.astimezone(UTC)
    except OverflowError:
        return _FIRST
