"""How a period is split into buckets and single records."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from billing_service.ledger.periods import BUCKETS, Piece, ceil, floor, split

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
THREE_HOURS, QUARTER = BUCKETS


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_large_buckets_inside_and_small_ones_at_both_edges() -> None:
    assert list(split(at("2026-01-01T18:30"), at("2026-01-02T18:30"))) == [  # a day in Kolkata
        Piece(QUARTER, at("2026-01-01T18:30"), at("2026-01-01T21:00")),
        Piece(THREE_HOURS, at("2026-01-01T21:00"), at("2026-01-02T18:00")),
        Piece(QUARTER, at("2026-01-02T18:00"), at("2026-01-02T18:30")),
    ]


def test_single_records_where_an_edge_is_not_on_a_quarter_of_an_hour() -> None:
    assert list(split(at("2026-01-01T00:10"), at("2026-01-01T03:15:00.000001"))) == [
        Piece(None, at("2026-01-01T00:10"), at("2026-01-01T00:15")),
        Piece(QUARTER, at("2026-01-01T00:15"), at("2026-01-01T03:15")),
        Piece(None, at("2026-01-01T03:15"), at("2026-01-01T03:15:00.000001")),
    ]


@pytest.mark.parametrize(
    ("start", "end", "pieces"),
    [
        ("2026-01-01T00:00", "2026-01-03T00:00", [THREE_HOURS]),
        ("2026-01-01T01:00", "2026-01-01T02:00", [QUARTER]),
        ("2026-01-01T00:01", "2026-01-01T00:02", [None]),
        ("2026-01-01T00:14", "2026-01-01T00:16", [None]),
        ("2026-01-01T00:00", "2026-01-01T00:00", []),
        ("1969-12-31T23:44:30", "1970-01-01T00:44:30", [None, QUARTER, None]),
    ],
)
def test_no_piece_is_empty(start: str, end: str, pieces: list[timedelta | None]) -> None:
    assert [piece.size for piece in split(at(start), at(end))] == pieces


def test_pieces_follow_each_other_in_whole_buckets_from_start_to_end() -> None:
    draw = random.Random(5)
    for _ in range(2_000):
        start = at("1999-12-30") + draw.choice([MINUTE / 7, QUARTER, THREE_HOURS]) * draw.randrange(1_000)
        end = start + draw.choice([MINUTE / 7, MINUTE, QUARTER, HOUR, DAY]) * draw.randrange(1, 50)
        pieces = list(split(start, end))
        assert (pieces[0].start, pieces[-1].end) == (start, end)
        assert all(one.end == following.start for one, following in pairwise(pieces))
        for size, first, last in pieces:
            assert first < last
            assert size is None or {floor(first, size), floor(last, size)} == {first, last}
        at_an_edge = sum((piece.end - piece.start for piece in pieces if piece.size is None), timedelta(0))
        assert at_an_edge < 2 * QUARTER


def test_floor_and_ceil() -> None:
    assert floor(at("1999-12-31T23:59:59"), QUARTER) == at("1999-12-31T23:45")
    assert ceil(at("1999-12-31T23:59:59"), QUARTER) == at("2000-01-01T00:00")
    assert (
        floor(at("2026-01-01T03:00"), THREE_HOURS)
        == ceil(at("2026-01-01T03:00"), THREE_HOURS)
        == at("2026-01-01T03:00")
    )
