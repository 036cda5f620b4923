"""Numbers, times and addresses as the pages show them. Numbers are shown to their last digit."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from billing_client.contract.wire import printable

MINUS = "\N{MINUS SIGN}"
MOST_PERCENT = 10_000
_WIDE = Context(prec=200, rounding=ROUND_HALF_UP)


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


def change(before: str, after: str) -> str:
    """By how much a number has changed, in percent to one digit; how much is new where nothing was before."""
    old, new = Decimal(before), Decimal(after)
    if old == new:
        return "0 %"
    if not old:
        return "new"
    percent = _WIDE.divide(_WIDE.subtract(new, old) * 100, abs(old)).quantize(Decimal("0.1"), context=_WIDE)
    if abs(percent) > MOST_PERCENT:
        return f"{'+' if percent > 0 else MINUS}over {number(MOST_PERCENT)} %"
    if not percent:
        return "under 0.1 %"
    return f"{signed(format(percent, 'f'))} %"


def moment(instant: datetime, zone: ZoneInfo) -> str:
    """A time to the second, in a time zone: 28 Nov 2026, 14:03:05 CET."""
    local = instant.astimezone(zone)
    return f"{local.day} {local:%b} {local.year}, {local:%H:%M:%S %Z}"


def day_name(day: date) -> str:
    """A day: Sat 28 Nov."""
    return f"{day:%a} {day.day} {day:%b}"


def long_day(day: date) -> str:
    """A day with its year: 28 November 2026."""
    return f"{day.day} {day:%B} {day.year}"


def month_name(day: date) -> str:
    """The month of a day: November 2026."""
    return f"{day:%B} {day.year}"


def last_day(first: date) -> str:
    """The last day of the month that begins with a day, as addresses have it."""
    return ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).isoformat()


def first_of(month: str) -> date:
    """The first day of a month such as 2026-10."""
    return date.fromisoformat(f"{month}-01")


def duration(span: timedelta) -> str:
    """A span of time in its two largest units: 2 days 9 hours."""
    minutes = span // timedelta(minutes=1)
    units = (("day", minutes // 1440), ("hour", minutes // 60 % 24), ("minute", minutes % 60))
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in units if count]
    return " ".join(parts[:2]) or "less than a minute"


def path(*segments: str) -> str:
    """The address of a page of the console, from the segments of its path."""
    return "/".join(("/console", *(quote(segment, safe="") for segment in segments)))


def query(**parameters: str | None) -> str:
    """A query, with its question mark, of the parameters that have a value; empty without any."""
    given = {name.rstrip("_"): value for name, value in parameters.items() if value}
    return f"?{urlencode(given)}" if given else ""


FILTERS = {
    "number": number,
    "in_two": in_two,
    "signed": signed,
    "padding": padding,
    "moment": moment,
    "day_name": day_name,
    "long_day": long_day,
    "month_name": month_name,
    "duration": duration,
    "printable": printable,
}
