"""JSON on standard output, for scripts."""

import re
import sys
from decimal import Decimal
from typing import Any

import msgspec

from billing_client.contract.decimals import plain
from billing_client.contract.wire import UNPRINTABLE

_unprintable = re.compile(f"[{UNPRINTABLE}]")


def to_json(value: Any) -> bytes:
    """A value as JSON, on the wire's terms: camelCase, decimals as strings in plain notation."""
    encoded = msgspec.json.encode(_in_plain_notation(msgspec.to_builtins(value, builtin_types=(Decimal,))))
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return harmless_json(encoded.decode()).encode()


def harmless_json(text: str) -> str:
    """The same JSON, in which what a terminal would obey or hide is escaped: it stands in strings alone.

    So it is the same whoever reads it. Control characters are escaped in any JSON.
    """
    return _unprintable.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    """A character as JSON escapes it: beyond the first 65,536 as a surrogate pair (RFC 8259, section 7)."""
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _in_plain_notation(value: Any) -> Any:
    match value:
        case Decimal():
            return plain(value)
        case dict():
            return {name: _in_plain_notation(member) for name, member in value.items()}
        case list():
            return [_in_plain_notation(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One line of JSON, on standard output."""
    sys.stdout.buffer.write(to_json(value) + b"\n")
