"""JSON on standard output, for scripts."""

import re
import sys
from decimal import Decimal
from typing import Any

import msgspec

from billing_client.contract.decimals import plain

_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")  # DEL and C1 in UTF-8, which JSON lets be, and terminals may obey


def to_json(value: Any) -> bytes:
    """A value as JSON, on the wire's terms: camelCase, decimals as strings in plain notation."""
    encoded = msgspec.json.encode(_in_plain_notation(msgspec.to_builtins(value, builtin_types=(Decimal,))))
    return _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), encoded)


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
