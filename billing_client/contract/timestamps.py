"""Times as RFC 3339 writes them, to the letter, read as instants in UTC.

A `T`, a `t` or a space is between date and time (section 5.6 and its note), `Z` may be `z`, and an offset has a colon.
What ISO 8601 has besides is refused. What is finer than a microsecond is cut off, since rounding up could move usage
into the next hour, day or month; a leap second counts as the last microsecond before it, for the same reason.
"""

import re
from calendar import monthrange
from datetime import UTC, datetime

_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|(60))(?:\.[0-9]++)?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_UP_TO_MINUTES = len("2026-11-30T23:59:")


def read_timestamp(text: str) -> datetime:
    """The instant that an RFC 3339 timestamp names, in UTC. Raises ValueError, with a message fit for a caller."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("must be an RFC 3339 date and time with an offset, such as 2026-11-30T12:00:00Z")
    if match[1]:
        return _leap_second(text[:_UP_TO_MINUTES], match[2])
    return _instant(text)


def _instant(text: str) -> datetime:
    if text.startswith("0000"):
        raise ValueError(_OUT_OF_RANGE)
    try:
        value = datetime.fromisoformat(text.upper())  # which cuts off what is finer than microseconds
    except ValueError as error:
        raise ValueError(f"must be a date that there is: {error}") from error
    return read_instant(value)


def _leap_second(minutes: str, offset: str) -> datetime:
    """The last microsecond before a leap second, which UTC has at the end of a month (RFC 3339, section 5.7)."""
    instant = _instant(f"{minutes}59.999999{offset}")
    if (instant.hour, instant.minute, instant.day) != (23, 59, monthrange(instant.year, instant.month)[1]):
        raise ValueError("must not be in second 60, but for a leap second: 23:59:60Z on the last day of a month")
    return instant


_OUT_OF_RANGE = "must be within the years 1 to 9999 in UTC"


def read_instant(value: datetime) -> datetime:
    """The instant of a time with an offset, in UTC. Raises ValueError where UTC has no such year."""
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(_OUT_OF_RANGE) from error
