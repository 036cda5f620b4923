"""Traces: the `traceparent` of a caller, and what `billing_service.telemetry.otel` does where it is turned on."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import Route

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


class Traces:
    """Spans for requests, commits and statements: here none at all."""

    def start(self) -> None:
        """Put the statements of this process into spans."""

    async def stop(self) -> None:
        """Let go of all that was not exported yet."""

    def middleware(self, routes: Iterable[Route]) -> list[Middleware]:
        """What puts requests into spans."""
        return []

    def place(self) -> Any:
        """Where in a trace the caller of this is."""
        return None

    def commit(self, way: str, places: Sequence[Any]) -> AbstractContextManager[None]:
        """The span of a commit for records that were reported at these places."""
        return nullcontext()


OFF = Traces()
