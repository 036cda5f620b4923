"""Finds what is where in JSON text without building it: in linear time, and in memory that does not grow with the text.

The patterns use possessive quantifiers throughout, so that they never go back and keep nothing to go back to. What they
are given need not be JSON: they find their way as far as it is, and leave it to the decoder to say what is wrong.
"""

import re
from collections.abc import Iterator

import msgspec

MAX_DEPTH = 20  # arrays and objects within each other; nothing in this API nests deeper than four
MAX_CONTAINERS = 100_000
MAX_SURROGATES = 100_000
SMALL = 10_000

_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_SCALAR = rb'(?:[^ \t\n\r"\\,:\[\]{}]++|' + _STRING + rb")"


def _container(depth: int) -> bytes:
    """The pattern of an array or object that nests at most so deep. Brackets need not match in kind."""
    inner = rb'[^\[\]{}"]++|' + _STRING
    for _ in range(depth - 1):
        inner = rb'[^\[\]{}"]++|' + _STRING + rb"|[\[{](?:" + inner + rb")*+[\]}]"
    return rb"[\[{](?:" + inner + rb")*+[\]}]"


_CONTAINER = re.compile(_container(MAX_DEPTH), re.DOTALL)
_BRACKET = re.compile(rb'(?:[^\[\]{}"]++|' + _STRING + rb")*+([\[\]{}])", re.DOTALL)
_FIRST = re.compile(_SPACE + rb"[\[{]" + _SPACE + rb"([\]}]?)")
_ELEMENT = _SPACE + rb"(?:(" + _SCALAR + rb")" + _SPACE + rb"([,\]}])|(?=[\[{]))"
_MEMBER = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _ELEMENT, re.DOTALL)
_ELEMENT_ALONE = re.compile(_ELEMENT, re.DOTALL)
_FLAT_NAMES = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE + _SCALAR, re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,\]}])")
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = rb"u[dD][89a-fA-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"(?:[^\\]++|\\(?:" + _PAIR + rb"|(?!" + _HALF + rb").))*+\\" + _HALF, re.DOTALL)
_decode_text = msgspec.json.Decoder(str).decode


def members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """The name and the JSON of each member of the object that the text holds, also of names that repeat.

    Raises ValueError where the text is no object, or not whole, or a value nests deeper than MAX_DEPTH.
    """
    first = _FIRST.match(data)
    if first is None:
        raise ValueError("is not an object")
    view = memoryview(data)
    at, mark = first.end(), first[1] or b","
    while mark == b",":
        member = _MEMBER.match(data, at)
        if member is None:
            raise ValueError("is not whole JSON")
        (first_quote, after_name), (start, end) = member.span(1), member.span(2)
        at, mark = member.end(), member[3]
        if mark is None:
            start = at
            end, at, mark = _skip(data, at)
        yield _text(data, view, first_quote, after_name), view[start:end]


def repeats_a_name(data: bytes) -> bool:
    """Whether the object that this JSON is, which must be valid, has two members of the same name (RFC 8259, section 4,
    leaves open what that means)."""
    if len(data) <= SMALL and data.count(b"{") + data.count(b"[") == 1:  # no more than scalars: 2 µs instead of 6
        names = _FLAT_NAMES.findall(data)
        return len(set(map(_decode_text, names) if b"\\" in b"".join(names) else names)) < len(names)
    seen = set()
    for name, _ in members(data):
        if name in seen:
            return True
        seen.add(name)
    return False


def count_elements(data: memoryview, most: int) -> int:
    """How many elements the array in this JSON has, `most` + 1 where there are more. Raises ValueError as `members`."""
    first = _FIRST.match(data)
    at, mark = (0, b"") if first is None else (first.end(), first[1] or b",")
    count = 0
    while mark == b"," and count <= most:
        element = _ELEMENT_ALONE.match(data, at)
        if element is None:
            raise ValueError("is not whole JSON")
        at, mark = element.end(), element[2]
        if mark is None:
            _, at, mark = _skip(data, at)
        count += 1
    return count


def _skip(data: bytes | memoryview, at: int) -> tuple[int, int, bytes]:
    """Where the array or object ends, where what follows the mark after it begins, and that mark."""
    container = _CONTAINER.match(data, at)
    following = container and _NEXT.match(data, container.end())
    if not container or not following:
        raise ValueError("is not whole JSON, or is nested too deeply")
    return container.end(), following.end(), following[1]


def _text(data: bytes, view: memoryview, start: int, end: int) -> str:
    """The text of a string, whose quotation marks are the first and the last byte."""
    return (
        _decode_text(view[start:end]) if data.find(b"\\", start, end) >= 0 else str(view[start + 1 : end - 1], "utf-8")
    )


def isolate(data: bytes) -> bytes:
    """The text with something of the same length in the place of what makes a decoder refuse the whole of it.

    That is half a surrogate pair, as a string cut in the middle of an emoji has, and what is nested deeper than
    MAX_DEPTH. The first becomes a byte that is no UTF-8, the second a 0: what holds them is still refused, by itself.
    Text with very many of either stays as it is.
    """
    return _without_depths(_without_lone_surrogates(data))


def _without_lone_surrogates(data: bytes) -> bytes:
    changed = bytearray(data) if b"\\u" in data else bytearray()
    at, count = 0, 0
    while changed and (found := _LONE_SURROGATE.match(data, at)):
        at, count = found.end(), count + 1
        changed[at - len(rb"\uD800")] = 0xFF
        if count > MAX_SURROGATES:
            return data
    return bytes(changed) if count else data


def _without_depths(data: bytes) -> bytes:
    changed = bytearray()
    at, start, depth, count = 0, 0, 0, 0
    while found := _BRACKET.match(data, at):
        at = found.end()
        if found[1] in b"[{":
            depth, count = depth + 1, count + 1
            if count > MAX_CONTAINERS:
                return data
            start = at - 1 if depth == MAX_DEPTH else start
        else:
            depth -= 1
            if depth == MAX_DEPTH - 1:
                changed = changed or bytearray(data)
                changed[start:at] = b"0".ljust(at - start)
    return bytes(changed) if changed and not depth else data
