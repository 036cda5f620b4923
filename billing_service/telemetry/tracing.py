"""Tracing: reads a caller's `traceparent`, and defines the interface that `telemetry.otel` implements."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from billing_service.telemetry.request_log import RequestInfo

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags. Later versions may have
# more fields.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})((?:-.*)?)", re.DOTALL
)
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def read_trace_id(traceparent: bytes | None) -> str | None:
    """The trace id of a W3C `traceparent` header; None if the header is missing or not valid."""
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[5]):
        return None
    return match[2].decode()


class Traces:
    """Makes spans for requests, commits and statements. This class makes none: it is used if tracing is off."""

    is_on = False

    def start(self) -> None:
        """Start to trace the statements of this process."""

    async def stop(self) -> None:
        """Stop tracing, and export the remaining spans."""

    def request(self, info: RequestInfo, headers: Mapping[bytes, bytes]) -> AbstractContextManager[object]:
        """The span of a request.

        Args:
            info: Gives the span its name and attributes when it ends.
            headers: The request's headers, names in lower case; they may name the caller's trace.
        """
        return _NO_SPAN

    def place(self) -> Any:
        """The current span."""
        return None

    def commit(self, way: str, places: Sequence[Any]) -> AbstractContextManager[None]:
        """The span of a commit.

        Args:
            way: How its records were reported: `single` or `batch`.
            places: The spans of the requests that reported them, as `place` gave them.
        """
        return _NO_SPAN


OFF = Traces()
