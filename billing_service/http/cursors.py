"""Keyset pagination: a cursor holds the position of a page's last item and is valid for one list only."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from billing_service.http.errors import invalid_input

_CHECK_BYTES = 8
Cursor = Annotated[
    str, Meta(description="The `nextCursor` of the previous page.", extra_json_schema={"format": "cursor"})
]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A number in a cursor, as far as the database has room for it."""

P = TypeVar("P")


def write_cursor(scope: str, position: object) -> str:
    """An opaque cursor.

    Args:
        scope: Names the list: its path and filters.
        position: The position of the last item of the page, as a value that msgpack can encode.
    """
    payload = msgspec.msgpack.encode(position)
    return urlsafe_b64encode(_check(scope, payload) + payload).decode().rstrip("=")


def read_cursor(scope: str, cursor: str, type_: type[P]) -> P:
    """The position a cursor holds.

    Args:
        scope: Names the list, as for `write_cursor`.
        cursor: The cursor as the caller sent it.
        type_: The type of the position, such as `Number` or `Id`: a forged position may be anything that it allows.

    Raises:
        ProblemError: 400; the cursor was altered, or belongs to another list.
    """
    # The checksum is not secret and need not be: a forged position reveals nothing that the list itself would not.
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        payload = data[_CHECK_BYTES:]
        if write_cursor(scope, msgspec.msgpack.decode(payload)) != cursor:
            raise ValueError("altered")
        return msgspec.msgpack.decode(payload, type=type_)
    except (ValueError, RecursionError) as error:
        raise invalid_input("query/cursor", "is not a cursor of this list with these filters") from error


def _check(scope: str, payload: bytes) -> bytes:
    return sha256(scope.encode() + b"\0" + payload).digest()[:_CHECK_BYTES]
