"""Exact money."""

from fractions import Fraction

import pytest
from hypothesis import given

from billing_client.contract.decimals import multiply, plain_decimal
from tests.client.contract.test_identity import plain_decimals


@pytest.mark.parametrize(
    ("units", "price", "amount"),
    [
        ("1.5", "0.02", "0.03"),
        ("100", "10", "1000"),
        ("0", "0.000000000000000001", "0"),
        ("0.5", "2", "1"),
        ("0.000000000000000001", "0.000000000000000001", "0." + "0" * 35 + "1"),
        ("9" * 38, "9" * 38, str((10**38 - 1) ** 2)),
    ],
)
def test_amounts(units: str, price: str, amount: str) -> None:
    assert multiply(units, price) == amount


@given(plain_decimals(), plain_decimals())
def test_nothing_is_ever_rounded(units: str, price: str) -> None:
    amount = multiply(units, price)
    assert Fraction(amount) == Fraction(units) * Fraction(price)
    assert "e" not in amount.lower()
    assert amount == "0" or amount.strip("0") == amount.lstrip("0") or "." not in amount
    assert plain_decimal(units) == units
