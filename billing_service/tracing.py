"""Traces: the `traceparent` of a caller."""

import re

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags; later versions may add
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})((?:-.*)?)", re.DOTALL
)


def read_trace_id(traceparent: bytes) -> str | None:
    """The trace id of a W3C `traceparent`, None where the header is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[5]):
        return None
    return match[2].decode()
