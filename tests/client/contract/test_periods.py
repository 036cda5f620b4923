"""The hours, days and months of a time zone, beside what its clock shows."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from zoneinfo import ZoneInfo, available_timezones

import pytest

from billing_client.contract.periods import (
    DAY,
    HOUR,
    Period,
    period_at,
    period_labels,
    periods_between,
    start_of_day,
)
from tests.ledgers import timezone_of

MINUTE, MICROSECOND = timedelta(minutes=1), timedelta(microseconds=1)
ZONES = sorted(available_timezones() - {"localtime", "Factory"})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def hour_shown(instant: datetime, zone: str) -> str:
    """The full hour on the zone's clock, with its offset from UTC."""
    local = instant.astimezone(ZoneInfo(zone))
    return local.replace(minute=0, second=0, microsecond=0, tzinfo=timezone_of(local)).isoformat()


def day_shown(latest: list[date], instant: datetime, zone: str) -> str:
    """The latest date that the zone's clock has shown, asked for one instant after another."""
    latest.append(max([*latest[-1:], instant.astimezone(ZoneInfo(zone)).date()]))
    return latest[-1].isoformat()


def check(start: datetime, end: datetime, step: timedelta, zone: str) -> None:
    """Between two instants the periods are what the clock shows, looked at step by step, and around their edges."""
    day_before = [start - number * 10 * MINUTE for number in range(144, 0, -1)]
    for unit in ("hour", "day", "month"):
        latest: list[date] = []
        for instant in day_before:
            day_shown(latest, instant, zone)
        name: Callable[[datetime, str], str] = hour_shown if unit == "hour" else partial(day_shown, latest)
        periods = list(periods_between(start, end, unit, ZoneInfo(zone)))
        assert periods[0].start <= start < end <= periods[-1].end
        assert all(one.end == following.start for one, following in pairwise(periods)), (zone, periods)
        edges = {edge - less for period in periods for edge in period for less in (MICROSECOND, 0 * MICROSECOND)}
        steps = {start + number * step for number in range((end - start) // step)}
        instants = sorted(instant for instant in edges | steps if start <= instant < end)
        names = [(name(instant, zone)[: 7 if unit == "month" else None], instant) for instant in instants]
        begun = [next(instant for _, instant in group) for _, group in groupby(names, key=itemgetter(0))]
        assert begun == [max(period.start, start) for period in periods], (zone, unit)


@pytest.mark.parametrize("year", [1883, 1911, 1945, 1987, 2009, 2026])
def test_periods_begin_and_end_as_the_clock_has_it_on_the_days_each_zone_changes(year: int) -> None:
    days = [datetime(year, 1, 1, tzinfo=UTC) + number * DAY for number in range(366)]
    for zone in ZONES:
        offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
        changed = [day for day, here, there in zip(days, offsets, offsets[1:], strict=False) if here != there]
        for day in changed[:2]:
            check(day, day + DAY, 10 * MINUTE, zone)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/St_Johns", "2006-10-29"),  # midnight twice: 00:01 is followed by 23:01
        ("America/Toronto", "1919-03-31"),  # 23:30 is followed by 00:30: midnight is left out
        ("Australia/Lord_Howe", "2026-04-04"),  # half an hour comes twice
        ("Pacific/Apia", "2011-12-30"),  # a day is left out
        ("America/Juneau", "1867-10-18"),  # a day comes twice
        ("Asia/Kathmandu", "1985-12-31"),  # from half an hour to a quarter
        ("Africa/Monrovia", "1972-01-07"),  # from 44 minutes and 30 seconds to none
    ],
)
def test_oddities(zone: str, day: str) -> None:
    check(at(day) - DAY, at(day) + 2 * DAY, MINUTE, zone)


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        ("Europe/Berlin", "2026-07-01", "2026-06-30T22:00"),
        ("America/Havana", "2020-11-01", "2020-11-01T04:00"),  # the hour from midnight comes twice: the first
        ("America/St_Johns", "2009-11-01", "2009-11-01T02:30"),  # turned back over midnight: the first
        ("America/Asuncion", "2000-10-01", "2000-10-01T04:00"),  # the hour from midnight is left out
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30"),  # the hour around midnight is left out
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00"),  # the day is left out: it begins and ends at once
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00"),
        ("Africa/Monrovia", "1969-06-01", "1969-06-01T00:44:30"),
    ],
)
def test_where_a_day_begins(zone: str, day: str, start: str) -> None:
    assert start_of_day(date.fromisoformat(day), ZoneInfo(zone)) == at(start)


def test_a_day_that_is_over_does_not_come_back() -> None:
    zone = ZoneInfo("America/St_Johns")
    night = list(periods_between(at("2009-11-01T02:00"), at("2009-11-01T04:00"), "day", zone))
    assert night == [
        Period(at("2009-10-31T02:30"), at("2009-11-01T02:30")),
        Period(at("2009-11-01T02:30"), at("2009-11-02T03:30")),
    ]
    assert period_at(at("2009-11-01T03:29"), "month", zone).start == at("2009-11-01T02:30")
    assert period_labels(at("2009-11-01T02:31"), ("hour", "day", "month"), zone) == {
        "hour": "2009-10-31T23:00:00-03:30",
        "day": "2009-11-01",
        "month": "2009-11",
    }


def test_no_time_has_no_periods() -> None:
    assert list(periods_between(at("2026-01-01"), at("2026-01-01"), "day", ZoneInfo("UTC"))) == []


def test_an_hour_is_cut_where_the_offset_changes_by_part_of_one() -> None:
    hours = list(
        periods_between(at("2026-04-04T14:00"), at("2026-04-04T16:30"), "hour", ZoneInfo("Australia/Lord_Howe"))
    )
    assert [(hour.end - hour.start) / HOUR for hour in hours] == [1, 0.5, 1]
