"""Finding the way in JSON text: the same members as a decoder that builds them all, and the same faults."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_client.contract.json_scanning import MAX_DEPTH, count_elements, isolate, members, repeats_a_name

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.text('[]{},:"\\ ', max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=10,
)
PAIRS = st.lists(st.tuples(st.sampled_from(["a", 'b"', "\\"]) | TEXT, VALUES), max_size=6)
SPACES = st.sampled_from(["", " ", "\n\t"])


def written(pairs: list[tuple[str, Any]], space: str, *, ascii_only: bool) -> bytes:
    """An object of these members, of which names may repeat."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    inner = f"{space},{space}".join(f"{dump(name)}{space}:{space}{dump(value)}" for name, value in pairs)
    return f"{space}{{{space}{inner}{space}}}{space}".encode()


@given(PAIRS, SPACES, st.booleans())
def test_the_members_are_those_that_were_written(pairs: list[tuple[str, Any]], space: str, ascii_only: bool) -> None:
    data = written(pairs, space, ascii_only=ascii_only)
    assert [(name, json.loads(bytes(raw))) for name, raw in members(data)] == pairs
    assert repeats_a_name(data) == (len({name for name, _ in pairs}) < len(pairs))
    assert isolate(data) == data


@given(st.lists(VALUES, max_size=6), st.integers(0, 7), SPACES)
def test_elements_are_counted_up_to_a_bound(values: list[Any], most: int, space: str) -> None:
    data = f"{space}[{space}{f'{space},{space}'.join(map(json.dumps, values))}{space}]".encode()
    assert count_elements(memoryview(data), most) == min(len(values), most + 1)


@given(st.binary(max_size=30) | st.text('{}[]:,"\\ a1u', max_size=30).map(str.encode))
def test_whatever_a_decoder_takes_has_the_same_members_and_the_rest_is_refused(data: bytes) -> None:
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with suppress(ValueError):  # it need not see what is wrong, but raises nothing else
            list(members(data))
    else:
        if isinstance(expected, dict):
            assert {name: json.loads(bytes(raw)) for name, raw in members(data)} == expected


@pytest.mark.parametrize(
    ("text", "isolated"),
    [
        (rb'["\ud800"]', b'["\xffud800"]'),
        (rb'["\udC00x","\ud83d\ud83d\ude00"]', b'["\xffudC00x","\xffud83d\\ud83d\\ude00"]'),
        (rb'["\\ud800","\\\ud800"]', b'["\\\\ud800","\\\\\xffud800"]'),
        (rb'["\ud83d\ude00\u0041\ud8","\x"]', rb'["\ud83d\ude00\u0041\ud8","\x"]'),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b"[" * (MAX_DEPTH - 1) + b"0 " + b"]" * (MAX_DEPTH - 1)),
        (b'[{"a":' * MAX_DEPTH + b"1" + b"}]" * MAX_DEPTH, None),
        (b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1), b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)),
        (b"[" * MAX_DEPTH, b"[" * MAX_DEPTH),
        (b'["' + b"[" * 100 + b'"]', b'["' + b"[" * 100 + b'"]'),
    ],
)
def test_what_a_decoder_refuses_all_for_is_put_aside(text: bytes, isolated: bytes | None) -> None:
    found = isolate(text)
    assert len(found) == len(text)
    if isolated is None:
        json.loads(found)
        isolated = found
    assert found == isolated
