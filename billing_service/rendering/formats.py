"""Numbers and times as people read them. Numbers are shown to their last digit, with their points below each other."""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

MINUS = "\N{MINUS SIGN}"


def number(value: str | int) -> str:
    """A number with thousands separators, not rounded."""
    return format(Decimal(value), ",f").replace("-", MINUS)


def in_two(value: str, digits: int) -> tuple[str, str]:
    """A number up to its digit of that place after the point, and the rest."""
    text = number(value)
    end = _end_of_head(text, digits)
    return text[:end], text[end:]


def _end_of_head(text: str, digits: int) -> int:
    point = text.find(".")
    return len(text) if point < 0 else point + (1 + digits if digits else 0)


class Cell(NamedTuple):
    """A number in a column: up to the currency's minor unit, and the rest. Behind each part stands, unseen, what keeps
    the points of the column below each other."""

    head: str
    head_padding: str
    tail: str
    tail_padding: str


def cell(text: str, padding: str, digits: int) -> Cell:
    """A cell from a number as it is shown, its padding, and how many digits after the point the head has at most."""
    whole = text + padding
    end, whole_end = _end_of_head(text, digits), _end_of_head(whole, digits)
    head, tail = text[:end], text[end:]
    return Cell(head, whole[len(head) : whole_end], tail, whole[whole_end + len(tail) :])


def signed(value: str | int) -> str:
    """A difference: as `number`, with a plus sign if it is above zero."""
    return f"+{number(value)}" if Decimal(value) > 0 else number(value)


def places(values: Iterable[str | int]) -> int:
    """How many digits after the point a column of numbers has at most."""
    return max((_places(value) for value in values), default=0)


def padding(value: str | int, most: int) -> str:
    """What stands, unseen, behind a number of a column, so that all its points are below each other."""
    own = _places(value)
    return "" if own == most else "." * (own == 0) + "0" * (most - own)


def _places(value: str | int) -> int:
    return len(str(value).partition(".")[2])


def moment(instant: datetime, zone: ZoneInfo) -> str:
    """A time to the second, in a time zone: 28 Nov 2026, 14:03:05 CET."""
    local = instant.astimezone(zone)
    return f"{local.day} {local:%b} {local.year}, {local:%H:%M:%S %Z}"


def month_name(day: date) -> str:
    """The month of a day: November 2026."""
    return f"{day:%B} {day.year}"
