"""Where the parts of a chart lie, and how numbers are shown."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from billing_service.console.charts import HEIGHT, Bar, draw
from billing_service.console.formats import change, duration
from billing_service.console.spans import Span, month_of, read_span
from billing_service.rendering.formats import cell, in_two, moment, number, padding, places, signed


def test_the_parts_of_a_bar_stand_on_each_other_without_a_gap() -> None:
    chart = draw("Usage", [Bar("1", "Monday", {"a": "30", "b": "20", None: "50"})], ["a", "b", None], "USD")
    assert chart.ticks[0] == "100"
    assert chart.ticks[-1] == "0"
    assert [(r.style, r.y, r.height) for r in chart.rectangles] == [("s0", 700, 300), ("s1", 500, 200), ("s7", 0, 500)]
    assert chart.rectangles[0].title == "Monday, a: 30 USD"
    assert chart.zero == HEIGHT


def test_credits_hang_below_zero() -> None:
    chart = draw("Usage", [Bar("1", "Monday", {"a": "30", "b": "-10"})], ["a", "b"], "USD")
    above, below = chart.rectangles
    assert above.y + above.height == chart.zero == below.y
    assert above.height == pytest.approx(3 * below.height, abs=2)


def test_nothing_and_one_amount_without_end_can_be_drawn() -> None:
    assert draw("Usage", [], ["a"], "USD").rectangles == []
    empty = draw("Usage", [Bar("1", "Monday", {})], ["a"], "USD")
    assert (empty.zero, empty.rectangles) == (HEIGHT, [])
    huge = draw("Usage", [Bar("1", "Monday", {"a": "152415787532388367504953515625666819427.83"})], ["a"], "USD")
    assert huge.ticks[0] == "2e38"
    assert 0 < huge.rectangles[0].height <= HEIGHT
    tiny = draw("Usage", [Bar("1", "Monday", {"a": "0.000000000000000000000000000000000001"})], ["a"], "USD")
    assert tiny.rectangles[0].height == HEIGHT


@pytest.mark.parametrize("top", ["1", "7", "12.5", "99.99", "1001", "123456789"])
def test_every_amount_is_within_the_lines(top: str) -> None:
    chart = draw("Usage", [Bar("1", "Monday", {"a": top}), Bar("2", "Tuesday", {"a": f"-{top}"})], ["a"], "USD")
    assert 3 <= len(chart.lines) <= 11
    assert chart.lines[0] == 0
    assert chart.lines[-1] == HEIGHT
    assert all(r.y >= 0 and r.y + r.height <= HEIGHT for r in chart.rectangles)


def test_numbers_are_shown_to_their_last_digit_and_their_points_are_below_each_other() -> None:
    assert number("12345678901234567890.123456789012345678") == "12,345,678,901,234,567,890.123456789012345678"
    assert number("-1234.5") == "\N{MINUS SIGN}1,234.5"
    assert signed("5") == "+5"
    assert in_two("1234.56789", 2) == ("1,234.56", "789")
    assert in_two("1234", 2) == ("1,234", "")
    column = ["1", "2.5", "3.125"]
    most = places(column)
    assert [number(value) + padding(value, most) for value in column] == ["1.000", "2.500", "3.125"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("0", "0", "0 %"),
        ("0", "5", "new"),
        ("8", "9", "+12.5 %"),
        ("3", "2", "\N{MINUS SIGN}33.3 %"),
        ("100000", "100001", "under 0.1 %"),
        ("-10", "10", "+200.0 %"),
        ("0.001", "12345678901234567890123456789", "+over 10,000 %"),
    ],
)
def test_a_change_in_percent(before: str, after: str, shown: str) -> None:
    assert change(before, after) == shown


def test_times_are_written_as_people_do() -> None:
    at = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert moment(at, ZoneInfo("Europe/Berlin")) == "29 Mar 2026, 03:30:00 CEST"
    assert duration(timedelta(days=2, hours=1, minutes=5)) == "2 days 1 hour"
    assert duration(timedelta(seconds=5)) == "less than a minute"


def test_a_span_is_whole_days_of_its_zone() -> None:
    span = read_span("2026-03-29", "2026-03-29", "Europe/Berlin", datetime(2026, 4, 1, tzinfo=UTC))
    assert (span.end - span.start, span.unit) == (timedelta(hours=23), "hour")
    now = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    assert read_span(None, None, "UTC", now) == month_of(date(2026, 11, 5), "UTC")
    assert read_span(None, None, "Europe/Berlin", now) == month_of(date(2026, 12, 5), "Europe/Berlin")
    assert read_span(None, "2026-10-15", "UTC", now) == Span(date(2026, 10, 1), date(2026, 10, 15), "UTC")
    assert month_of(date(2026, 2, 5), "UTC").month_before.title == "January 2026"
    assert month_of(date(2026, 12, 5), "UTC").month_after.title == "January 2027"
    assert Decimal(len(Span(date(2000, 1, 1), date(2026, 1, 1), "UTC").starts() or [])) == 313
    assert Span(date(1900, 1, 1), date(2026, 1, 1), "UTC").starts() is None


@pytest.mark.parametrize(
    ("value", "most", "digits", "parts"),
    [
        ("21.3435", 6, 2, ("21.34", "", "35", "00")),
        ("21.3", 6, 2, ("21.3", "0", "", "0000")),
        ("0", 6, 2, ("0", ".00", "", "0000")),
        ("-1234.5", 1, 2, ("\N{MINUS SIGN}1,234.5", "", "", "")),
        ("7", 0, 2, ("7", "", "", "")),
        ("7.25", 3, 0, ("7", "", ".25", "0")),
        ("7", 3, 0, ("7", "", "", ".000")),
    ],
)
def test_the_points_of_a_column_are_below_each_other(
    value: str, most: int, digits: int, parts: tuple[str, str, str, str]
) -> None:
    assert cell(number(value), padding(value, most), digits) == parts
