"""Exact money: decimal arithmetic in which nothing is ever rounded."""

from decimal import Context, Decimal, Inexact

# two factors of 38 digits give at most 76; a result that would not fit is a bug, so it traps
_EXACT = Context(prec=100, traps=[Inexact])


def multiply(units: str, price: str) -> str:
    """The exact product of two plain decimals, as a plain decimal."""
    product = format(_EXACT.multiply(Decimal(units), Decimal(price)), "f")
    return product.rstrip("0").rstrip(".") if "." in product else product
