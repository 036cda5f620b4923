"""The currencies: what a deployment may bill in, and how its totals are rounded."""

import re
from collections import Counter
from pathlib import Path

import pytest

from billing_service.currencies import MINOR_UNITS
from billing_service.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder without env files."""
    monkeypatch.chdir(tmp_path)


def test_all_active_codes_with_a_minor_unit_are_there() -> None:
    assert all(re.fullmatch("[A-Z]{3}", code) for code in MINOR_UNITS)
    assert Counter(MINOR_UNITS.values()) == {0: 17, 2: 139, 3: 7, 4: 2}


@pytest.mark.parametrize(
    ("code", "digits"),
    [("USD", 2), ("EUR", 2), ("XCG", 2), ("MRU", 2), ("JPY", 0), ("ISK", 0), ("KWD", 3), ("TND", 3), ("CLF", 4)],
)
def test_the_digits_of_the_minor_unit(code: str, digits: int) -> None:
    assert MINOR_UNITS[code] == digits
    assert load_settings({"BILLING_CURRENCY": code}).currency == code


@pytest.mark.parametrize(
    "code", ["ABC", "HRK", "BGN", "XAU", "XDR", "XTS", "XXX", "usd", "USD\n", "US", "EURO", "USD|EUR"]
)
def test_another_code_stops_the_start_with_one_line(code: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"BILLING_CURRENCY": code})
    right = "the ISO 4217 code of a currency such as USD"
    assert str(caught.value) == f"BILLING_CURRENCY: {code!r} is not valid; it must be {right}"
