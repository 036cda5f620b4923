"""Decimal numbers as text: read digit by digit, added and multiplied exactly, never through a float."""

import re
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact
from functools import cache
from typing import Any

from msgspec import Struct, inspect

# a product has at most 76 digits before the point and 36 after it, a sum of 10^20 of them 132 in all; what would not
# fit is a bug, so it traps
EXACT = Context(prec=200, traps=[Inexact])
_ROUNDING = Context(prec=200, rounding=ROUND_HALF_UP)
MOST_DIGITS = 200  # before or behind the point of any number, sums included
MAX_DIGITS = 38
MAX_FRACTION_DIGITS = 18
MAX_NUMERAL = 100_000  # characters that a number may be written in, needless zeros included

# What a string may hold: numeric-string of the General Decimal Arithmetic specification, which Decimal() of most
# languages takes, less its special values. It has more than a number of JSON (RFC 8259): `+1`, `0012`, `.5` and `1.`.
NUMERAL = r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?)([0-9]+))?"
_NUMERAL = re.compile(NUMERAL)
_PLAIN = re.compile(
    r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{0,17}[1-9])?"
)  # what is written so already, of 38 digits at most
_PLAIN_NUMERAL = f'(?:"{_PLAIN.pattern}"|{_PLAIN.pattern})'
_PLAIN_LINES = re.compile(f"{_PLAIN_NUMERAL}(?:\n{_PLAIN_NUMERAL})*+")
_WITHOUT_NUMBERS = (
    inspect.StrType,
    inspect.IntType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.DateTimeType,
    inspect.LiteralType,
    inspect.DictType,
)
NEGATIVE = "must not be negative"
TOO_LONG = f"must have at most {MAX_DIGITS} digits, written in at most {MAX_NUMERAL} characters"


def plain_decimal(text: str, *, signed: bool = False) -> str:
    """Write a decimal number the one way that counts: no exponent, no plus sign, no needless zeros.

    `15`, `15.0` and `1.5e1` give `15`; every zero gives `0`, also `-0`. Where it may be negative (`signed`), `-1.50`
    gives `-1.5`. Raises ValueError, with a message fit for a caller, for anything but a finite number that is not
    negative and has at most 38 digits, at most 18 of them after the point, written in at most MAX_NUMERAL characters.
    """
    if _PLAIN.fullmatch(text):
        return text
    if len(text) > MAX_NUMERAL:
        raise ValueError(TOO_LONG)
    match = _NUMERAL.fullmatch(text)
    if match is None:
        raise ValueError("must be a finite decimal number")
    sign, whole, fraction, only_fraction, exponent_sign, exponent = match.groups()
    whole, fraction = whole or "", fraction or only_fraction or ""
    if exponent is not None:
        whole, fraction = _shift(whole, fraction, -1 if exponent_sign == "-" else 1, exponent)
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    if not whole and not fraction:
        return "0"
    if sign == "-" and not signed:
        raise ValueError(NEGATIVE)
    if len(fraction) > MAX_FRACTION_DIGITS:
        raise ValueError(f"must have at most {MAX_FRACTION_DIGITS} digits after the point")
    if len(whole) + len(fraction) > MAX_DIGITS:
        raise ValueError(f"must have at most {MAX_DIGITS} digits")
    digits = f"{whole or '0'}.{fraction}" if fraction else whole
    return f"-{digits}" if sign == "-" else digits


def plain_decimals(lines: str, signed: int = 0) -> list[str]:
    """Read the decimals in these lines, each a JSON number, or a string without escapes; the first `signed` of them may
    be negative. Raises ValueError. Those that are written plainly, as most are, cost a fourth of `plain_decimal`."""
    values = lines.replace('"', "").split("\n")
    if _PLAIN_LINES.fullmatch(lines):
        return values
    return [plain_decimal(value, signed=n < signed) for n, value in enumerate(values)]


def _shift(whole: str, fraction: str, direction: int, exponent: str) -> tuple[str, str]:
    """Move the point by an exponent, in time and memory that do not depend on the exponent's size."""
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "", ""
    magnitude = exponent.lstrip("0") or "0"
    # further than any digit given could bring back into range: the limits on digits then refuse it
    distance = int(magnitude) if len(magnitude) <= 9 else 10**9
    reach = len(whole) + len(fraction) + MAX_DIGITS + MAX_FRACTION_DIGITS
    shift = direction * min(distance, reach)
    point = len(digits) - len(fraction) + shift
    if point <= 0:
        return "", "0" * -point + digits
    return digits[:point].ljust(point, "0"), digits[point:]


def multiply(units: str, price: str) -> str:
    """The exact product of two plain decimals, as a plain decimal."""
    return plain(EXACT.multiply(Decimal(units), Decimal(price)))


def total(decimals: Iterable[str]) -> str:
    """The exact sum of plain decimals, as a plain decimal."""
    result = Decimal(0)
    for decimal in decimals:
        result = EXACT.add(result, Decimal(decimal))
    return plain(result)


def difference(one: str, other: str) -> str:
    """The first plain decimal less the second, exact."""
    return plain(EXACT.subtract(Decimal(one), Decimal(other)))


def round_half_up(decimal: str, digits: int) -> str:
    """A plain decimal rounded to so many digits after the point, half away from zero; it has all of them."""
    rounded = Decimal(decimal).quantize(Decimal(1).scaleb(-digits), context=_ROUNDING)
    return format(rounded if rounded else abs(rounded), "f")


def plain(decimal: Decimal) -> str:
    """A decimal without exponent, without needless zeros, and without a sign where it is zero."""
    decimal = decimal or abs(decimal)
    text = str(decimal)  # half as long as format() takes
    if "E" in text:
        text = format(decimal, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def require_numbers(value: Any) -> None:
    """Raises ValueError if a decimal in a struct, or in a list of them, is none that the service writes.

    `Decimal` also reads NaN, Infinity and 1e999999999, which would take a gigabyte to print.
    """
    if isinstance(value, Decimal):
        if not (value.is_finite() and abs(value.adjusted()) < MOST_DIGITS):
            raise ValueError(f"{str(value)[:50]} is no amount")
    elif isinstance(value, Struct):
        for name in _may_hold_numbers(type(value)):
            require_numbers(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            require_numbers(item)


@cache
def _may_hold_numbers(kind: type[Struct]) -> tuple[str, ...]:
    """The fields of a struct that may hold decimals, or what holds them."""
    described = inspect.type_info(kind)
    fields = described.fields if isinstance(described, inspect.StructType) else ()
    return tuple(field.name for field in fields if not _is_without_numbers(field.type))


def _is_without_numbers(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return all(map(_is_without_numbers, kind.types))
    return isinstance(kind.type if isinstance(kind, inspect.Metadata) else kind, _WITHOUT_NUMBERS)
