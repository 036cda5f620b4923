"""Exact money: decimal arithmetic in which nothing is rounded but where it says so."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact

# a product has at most 76 digits before the point and 36 after it, a sum of 10^20 of them 132 in all; what would not
# fit is a bug, so it traps
EXACT = Context(prec=200, traps=[Inexact])
_ROUNDING = Context(prec=200, rounding=ROUND_HALF_UP)


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
    return format(Decimal(decimal).quantize(Decimal(1).scaleb(-digits), context=_ROUNDING), "f")


def plain(decimal: Decimal) -> str:
    """A decimal without exponent and without needless zeros."""
    text = format(decimal, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
