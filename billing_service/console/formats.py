"""Times, changes and addresses as the pages show them."""

from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from urllib.parse import quote, urlencode

from billing_client.contract.wire import printable
from billing_service.rendering.formats import MINUS, in_two, moment, month_name, number, padding, signed

MOST_PERCENT = 10_000
_WIDE = Context(prec=200, rounding=ROUND_HALF_UP)


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


def day_name(day: date) -> str:
    """A day: Sat 28 Nov."""
    return f"{day:%a} {day.day} {day:%b}"


def long_day(day: date) -> str:
    """A day with its year: 28 November 2026."""
    return f"{day.day} {day:%B} {day.year}"


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
