"""Exact money: decimal arithmetic in which nothing is ever rounded."""

from collections.abc import Iterable
from decimal import Context, Decimal, Inexact

# two factors of 38 digits give at most 76, a sum of 10^20 such products 96; what would not fit is a bug, so it traps
_EXACT = Context(prec=100, traps=[Inexact])


def multiply(units: str, price: str) -> str:
    """The exact product of two plain decimals, as a plain decimal."""
    return plain(_EXACT.multiply(Decimal(units), Decimal(price)))


def add(one: Decimal, other: Decimal) -> Decimal:
    """The exact sum."""
    return _EXACT.add(one, other)


def total(decimals: Iterable[str]) -> str:
    """The exact sum of plain decimals, as a plain decimal."""
    result = Decimal(0)
    for decimal in decimals:
        result = _EXACT.add(result, Decimal(decimal))
    return plain(result)


def plain(decimal: Decimal) -> str:
    """A decimal without exponent and without needless zeros."""
    text = format(decimal, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
