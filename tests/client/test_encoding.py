"""What is sent: the quick look at text lets through what the thorough one does, and nothing else."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from billing_client._encoding import _converted, _text
from billing_client.contract.wire import MAX_ID_LENGTH, FieldError, Id

CHARACTERS = st.one_of(st.characters(), st.sampled_from("\x00\x1f\x7f\x85\x9f\xa0\xad\u2028\ud800\U0001f600"))


class Text(str):
    """A str of another type, as enumerations have."""

    __slots__ = ()


@given(value=st.one_of(st.text(CHARACTERS, max_size=3), st.text(min_size=127, max_size=130), st.integers(), st.none()))
@example(value="")
@example(value="x" * MAX_ID_LENGTH)
@example(value="x" * (MAX_ID_LENGTH + 1))
@example(value="a\x7f")
@example(value="a\ud800")
@example(value=Text("acme"))
def test_text_is_checked_quickly_as_it_is_thoroughly(value: Any) -> None:
    quick: list[FieldError] = []
    thorough: list[FieldError] = []
    assert _text("/id", value, Id, MAX_ID_LENGTH, quick) == _converted("/id", value, Id, thorough)
    assert quick == thorough
