"""The periods of a time zone, and what makes them up."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from billing_client.contract.periods import Period, period_labels
from billing_service.ledger.periods import DAY, GRAINS, HOUR, RECORDS, Cut, cells, cut, floor, stretches
from tests.ledgers import label

PERIODS: tuple[Period, ...] = ("hour", "day", "month")
MINUTE = timedelta(minutes=1)
ZONES = sorted(available_timezones() - {"localtime", "Factory"})


def label_at(instant: datetime, period: Period, zone: str) -> str:
    """What Python calls the period that an instant is in."""
    return label({"occurredAt": instant.isoformat()}, period, zone)


def in_utc(found: str, period: Period) -> str:
    return datetime.fromisoformat(found).astimezone(UTC).isoformat() if period == "hour" else found


def labels_between(start: datetime, end: datetime, period: Period, zone: str) -> Iterator[tuple[Cut, str | None]]:
    """The cuts, each with the label of what begins there."""
    size = HOUR if period == "hour" else DAY
    cuts, periods = cut(cells(start, end, size), size, start, end, period, zone)
    for one in cuts:
        yield one, None if one.after is None else in_utc(named(periods[one.after], period), period)


def named(begun: datetime, period: Period) -> str:
    return period_labels(begun.astimezone(UTC), begun.replace(tzinfo=None), [period])[period]


def check_labels(start: datetime, end: datetime, step: timedelta, zone: str) -> None:
    for period in PERIODS:
        found = list(labels_between(start, end, period, zone))
        assert (found[0][0].at, found[-1][0].at, found[-1][1]) == (start, end, None)
        at = start
        for (one, name), (following, _) in pairwise(found):
            assert one.at == at, "a period begins where the last one ends"
            while at < following.at:
                assert label_at(at, period, zone) == name, (zone, period, at)
                at = min(at + step, following.at)
        assert at == end


@pytest.mark.parametrize("year", [1883, 1911, 1945, 1987, 2006, 2026])
def test_they_begin_where_python_has_them_begin_on_the_day_each_zone_changes(year: int) -> None:
    days = [datetime(year, 1, 1, tzinfo=UTC) + number * DAY for number in range(366)]
    for zone in ZONES:
        offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
        changed = [day for day, here, there in zip(days, offsets, offsets[1:], strict=False) if here != there]
        for day in changed[:2]:
            check_labels(day, day + DAY, 10 * MINUTE, zone)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/St_Johns", datetime(2006, 10, 29, tzinfo=UTC)),  # midnight twice: 00:01 is followed by 23:01
        ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),  # half an hour comes twice
        ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),  # a day is left out
        ("America/Juneau", datetime(1867, 10, 18, tzinfo=UTC)),  # a day comes twice
        ("Asia/Kathmandu", datetime(1985, 12, 31, tzinfo=UTC)),  # from half an hour to a quarter
    ],
)
def test_oddities(zone: str, day: datetime) -> None:
    check_labels(day - DAY, day + 2 * DAY, MINUTE, zone)


def test_a_label_that_comes_twice_is_one_period() -> None:
    day = datetime(2006, 10, 29, tzinfo=UTC)
    cuts, periods = cut([day], DAY, day, day + DAY, "day", "America/St_Johns")
    assert [named(begun, "day") for begun in periods] == ["2006-10-28", "2006-10-29"]
    assert [one.after for one in cuts] == [0, 1, 0, 1, None]


def test_time_before_and_after_is_no_ones() -> None:
    start, end = datetime(2026, 1, 1, 0, 7, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert cut(cells(start, end, DAY), DAY, start, end, "day", "UTC") == (
        [Cut(start, None, 0), Cut(datetime(2026, 1, 2, tzinfo=UTC), 0, 1), Cut(end, 1, None)],
        [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)],
    )
    assert cut([], DAY, start, end, "day", "UTC") == ([], [])
    assert cut(cells(start, start, DAY), DAY, start, start, "day", "UTC") == ([], [])


def test_whole_grains_make_up_most_of_it() -> None:
    kolkata = [Cut(datetime(2026, 1, day, 18, 30, tzinfo=UTC), day - 1 or None, day) for day in (1, 2)]
    assert stretches(kolkata, GRAINS) == [
        (GRAINS[0], datetime(2026, 1, 1, 18, tzinfo=UTC), datetime(2026, 1, 2, 18, tzinfo=UTC), 1, None),
        (GRAINS[1], datetime(2026, 1, 1, 18, tzinfo=UTC), datetime(2026, 1, 1, 18, 30, tzinfo=UTC), None, 1),
        (GRAINS[1], datetime(2026, 1, 2, 18, tzinfo=UTC), datetime(2026, 1, 2, 18, 30, tzinfo=UTC), 1, 2),
    ]


def random_cuts(draw: random.Random) -> list[Cut]:
    """Cuts as close as a minute and as far as a day, some on a grain, between periods that come again."""
    at, instants = datetime(2026, 1, 1, tzinfo=UTC), set[datetime]()
    for _ in range(draw.randint(2, 9)):
        at += draw.choice([MINUTE, 7 * MINUTE, 5 * HOUR, DAY]) * draw.random()
        instants.add(draw.choice([at, floor(at, draw.choice(GRAINS))]))
    numbers = [None, *(draw.choice([None, 0, 1, 2, 3]) for _ in instants)][: len(instants)]
    return [Cut(*one) for one in zip(sorted(instants), numbers, [*numbers[1:], None], strict=True)]


@pytest.mark.parametrize("grains", [GRAINS, GRAINS[1:]])
def test_what_it_is_made_up_of_adds_up_to_what_each_period_holds(grains: tuple[timedelta, ...]) -> None:
    draw = random.Random(5)
    for _ in range(300):
        cuts = random_cuts(draw)
        first, last = cuts[0].at - DAY, cuts[-1].at + DAY
        usage = [first + (last - first) * draw.random() for _ in range(300)]
        usage += [one.at for one in cuts] + [one.at - timedelta(microseconds=1) for one in cuts]
        expected: Counter[int | None] = Counter()
        for one, following in pairwise(cuts):
            expected[one.after] += sum(one.at <= instant < following.at for instant in usage)
        sums: Counter[int | None] = Counter()
        for stretch in stretches(cuts, grains):
            if stretch.grain != RECORDS:
                assert {floor(end, stretch.grain) for end in stretch[1:3]} == set(stretch[1:3]), "whole grains"
            held = sum(stretch.start <= instant < stretch.end for instant in usage)
            sums[stretch.gains] += held
            sums[stretch.loses] -= held
        assert {n: sums[n] for n in range(4)} == {n: expected[n] for n in range(4)}
