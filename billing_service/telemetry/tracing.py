"""Traces: the `traceparent` of a caller, and the interface that `telemetry.otel` implements where traces are on."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from billing_service.telemetry.request_log import RequestInfo

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags; later versions may add
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})((?:-.*)?)", re.DOTALL
)
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def read_trace_id(traceparent: bytes | None) -> str | None:
    """The trace id of a W3C `traceparent`; None where there is none or it is not valid."""
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[5]):
        return None
    return match[2].decode()


class Traces:
    """Spans for requests, commits and statements. This one makes none."""

    is_on = False

    def start(self) -> None:
        """Trace the statements of this process from now on."""

    async def stop(self) -> None:
        """Export what was not exported yet."""

    def request(self, info: RequestInfo, headers: Mapping[bytes, bytes]) -> AbstractContextManager[object]:
        """The span of a request, which takes its name and attributes from `info` when it ends."""
        return _NO_SPAN

    def place(self) -> Any:
        """The span that the caller of this method is in."""
        return None

    def commit(self, way: str, places: Sequence[Any]) -> AbstractContextManager[None]:
        """The span of a commit of records that were reported in these spans."""
        return _NO_SPAN


OFF = Traces()
