"""Cells of CSV that a spreadsheet would run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_client.contract.csv_cells import disarm, rearm

DANGEROUS = ["=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20"]


@pytest.mark.parametrize("first", DANGEROUS, ids=ascii)
@pytest.mark.parametrize("rest", ["", "1+1", "'", "=cmd|' /C calc'!A0"])
def test_a_cell_that_might_be_run_is_disarmed(first: str, rest: str) -> None:
    inner = "'" if first in "\t\r\n" and rest.startswith(("'", "=")) else ""
    assert disarm(first + rest) == "'" + first + inner + rest


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("first", DANGEROUS, ids=ascii)
def test_no_cell_might_be_run_with_another_separator(separator: str, first: str) -> None:
    text = f"disk{separator}{first}1+1{separator}x{separator}{first}"
    cells = disarm(text).split(separator)
    assert not any(cell.startswith(tuple(DANGEROUS)) and not cell.startswith("'") for cell in cells)
    assert rearm(disarm(text)) == text


@pytest.mark.parametrize("text", ["", "storage", "a=b", " =1", "1-2", "é", "\U0001f980"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert disarm(text) == text


@given(st.one_of(st.text(), st.text(";\t'=-a"), st.builds(str.__add__, st.sampled_from(DANGEROUS), st.text())))
def test_any_text_comes_back(text: str) -> None:
    assert rearm(disarm(text)) == text
