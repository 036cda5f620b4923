"""Cursors: bound to the list they came from, and refused when altered."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import ProblemError

POSITION = (datetime(2025, 1, 31, 23, 59, 59, 999999, tzinfo=UTC), bytes(range(32)))


def assert_refused(scope: str, cursor: str, type_: type[object] = str) -> None:
    with pytest.raises(ProblemError) as caught:
        read_cursor(scope, cursor, type_)
    details = caught.value.details
    assert details.code == "validation_error"
    assert [error.pointer for error in details.errors or []] == ["query/cursor"]


def test_a_cursor_gives_back_its_position() -> None:
    cursor = write_cursor("usage acme", POSITION)
    assert read_cursor("usage acme", cursor, tuple[datetime, bytes]) == POSITION
    assert cursor.replace("-", "a").replace("_", "a").isalnum()


@given(scope=st.text(), position=st.text())
def test_any_position_in_any_list(scope: str, position: str) -> None:
    assert read_cursor(scope, write_cursor(scope, position), str) == position


def test_a_cursor_of_another_list_is_refused() -> None:
    assert_refused("usage acme storage", write_cursor("usage acme", POSITION))


def test_a_cursor_with_another_kind_of_position_is_refused() -> None:
    assert_refused("customers", write_cursor("customers", POSITION))
    assert_refused("usage", write_cursor("usage", "acme"), tuple[datetime, bytes])


@given(data=st.data())
def test_a_cursor_that_was_altered_is_refused(data: st.DataObject) -> None:
    cursor = write_cursor("customers", "acme")
    place = data.draw(st.integers(0, len(cursor) - 1))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ é"
    other = data.draw(st.sampled_from([character for character in alphabet if character != cursor[place]]))
    assert_refused("customers", cursor[:place] + other + cursor[place + 1 :])
    assert_refused("customers", cursor[:place])


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    assert_refused("customers", text)


@given(st.binary(max_size=64))
def test_any_bytes_are_refused(payload: bytes) -> None:
    assert_refused("customers", urlsafe_b64encode(payload).decode().rstrip("="))


NESTED = b"\x91" * 5000 + b"\xc0"


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x81\x90\x01", NESTED, msgspec.msgpack.encode(1.5), b"\xc4\x01a"], ids=repr
)
def test_what_is_no_position_is_refused(payload: bytes) -> None:
    assert_refused("customers", urlsafe_b64encode(bytes(8) + payload).decode().rstrip("="))
