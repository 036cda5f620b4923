"""Times as RFC 3339 writes them: all that it has, and nothing else."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_client.contract.timestamps import read_timestamp

OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


FIRST, LAST = datetime(1, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001 - hypothesis adds the offsets


@given(st.datetimes(FIRST, LAST, timezones=OFFSETS), st.sampled_from("Tt "))
def test_every_time_is_read_as_its_instant(time: datetime, separator: str) -> None:
    text = time.isoformat(separator)
    assert read_timestamp(text) == time
    assert read_timestamp(text).tzinfo is UTC
    offset = text[-len("+00:00") :]
    assert read_timestamp(f"{time.replace(tzinfo=None).isoformat(separator, 'microseconds')}999999{offset}") == time


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-10-31t12:00:00.1234567z", datetime(2026, 10, 31, 12, 0, 0, 123456, UTC)),
        ("2026-12-31T23:59:59.99999999999Z", datetime(2026, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2026-10-31T12:00:00-00:00", datetime(2026, 10, 31, 12, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2016-12-31 23:59:60.9Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("1990-12-31T15:59:60-08:00", datetime(1990, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2024-03-01T05:29:60+05:30", datetime(2024, 2, 29, 23, 59, 59, 999999, UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:60Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_what_rfc_3339_has(text: str, instant: datetime) -> None:
    assert read_timestamp(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-10-31",
        "2026-10-31T12:00:00",
        "2026-10-31T12:00Z",
        "2026-10-31T12:00:00+00",
        "2026-10-31T12:00:00+0000",
        "2026-10-31T12:00:00+00:00:30",
        "2026-10-31T12:00:00+24:00",
        "2026-10-31T12:00:00+00:60",
        "2026-10-31T12:00:00\N{MINUS SIGN}01:00",
        "2026-10-31T24:00:00Z",
        "2026-10-31T12:60:00Z",
        "2026-10-31T12:00:61Z",
        "2026-10-31T12:00:60Z",
        "2016-12-31T23:59:60+01:00",
        "2016-12-30T23:59:60Z",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "2026-10-31T12:00:00.Z",
        "2026-10-31T12:00:00,5Z",
        "2026-10-31_12:00:00Z",
        "2026-10-31  12:00:00Z",
        "2026-10-31T12:00:00 Z",
        " 2026-10-31T12:00:00Z",
        "2026-10-31T12:00:00Z\n",
        "20261031T120000Z",
        "2026-W44-6T12:00:00Z",
        "2026-304T12:00:00Z",
        "+2026-10-31T12:00:00Z",
        "\uff12026-10-31T12:00:00Z",
        "0000-12-31T12:00:00Z",
        "0000-12-31T12:00:00-14:00",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "1793448000",
    ],
)
def test_what_rfc_3339_does_not_have_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        read_timestamp(text)
