"""Counts and logs finished requests, in groups that are collected for FLUSH_SECONDS."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from billing_service.telemetry.logs import FAILED, RequestLine, RequestLog
from billing_service.telemetry.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
FLUSH_SECONDS = 0.02


class RequestInfo(Struct, eq=False):
    """What is known of a request. The HTTP layer and the handlers fill it in; log, metrics and traces read it.

    Attributes:
        method: The HTTP method, as sent.
        http_request_id: Identifies the request: the caller's `X-Request-Id`, or a new one.
        trace_id: The trace id of the caller's W3C `traceparent`, or of the span that was opened for the request.
        route: The path template, such as `/customers/{customer_id}`; `other` if no operation was found.
        status: The status of the response; 500 until there is one.
        outcome: The outcome of a single record.
        outcomes: How many records of a batch had each outcome.
        code: The problem code of the response.
        key_id: The id of the caller's API key.
        seconds: How long the request took.
        ended_at: When it ended.
    """

    method: str
    http_request_id: bytes
    trace_id: str | None = None
    route: str = OTHER
    status: int = FAILED
    outcome: str | None = None
    outcomes: dict[str, int] | None = None
    code: str | None = None
    key_id: str | None = None
    seconds: float = 0.0
    ended_at: datetime = datetime.min.replace(tzinfo=UTC)


class _Kind(Struct, eq=False, frozen=True):
    """Requests that count as one kind: the same method, route and status."""

    observe: Callable[[list[float]], None]
    method: str
    is_probe: bool


class RequestTelemetry:
    """Counts and logs requests in groups."""

    # Doing it for each request, before the next one is read, cost a single caller 50 µs per call.

    def __init__(self, metrics: Metrics, log: RequestLog | None) -> None:
        self._metrics = metrics
        self._log = log
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        self._ended: list[RequestInfo] = []

    def add(self, info: RequestInfo, seconds: float) -> None:
        """Note that a request ended now, and how many seconds it took."""
        info.seconds, info.ended_at = seconds, datetime.now(UTC)
        if not self._ended:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._ended.append(info)

    def flush(self) -> None:
        """Count and log the requests that have ended so far, and count the commits that they waited for."""
        self._metrics.count_commits()
        ended, self._ended = self._ended, []
        times: dict[_Kind, list[float]] = {}
        lines = []
        for info in ended:
            kind = self._kind(info)
            times.setdefault(kind, []).append(info.seconds)
            if self._log is not None and self._log.takes(info.status, kind.is_probe):
                lines.append(_line(info, kind.method))
        for kind, seconds in times.items():
            kind.observe(seconds)
        if self._log is not None and lines:
            self._log.write(lines)

    def _kind(self, info: RequestInfo) -> _Kind:
        key = (info.route, info.method, info.status)
        kind = self._kinds.get(key)
        if kind is None:
            method = bounded_method(info.method)
            kind = _Kind(self._metrics.request(method, info.route, info.status), method, info.route in PROBES)
            if method == info.method:  # made-up methods are not cached: they would fill the memory
                self._kinds[key] = kind
        return kind


def bounded_method(method: str) -> str:
    """The method if it is one of METHODS, else `other`, so that callers cannot create new time series."""
    return method if method in METHODS else OTHER


def _line(info: RequestInfo, method: str) -> RequestLine:
    return RequestLine(
        timestamp=info.ended_at,
        level="info" if info.status < FAILED else "error",
        event="request",
        method=method,
        route=info.route,
        status=info.status,
        duration_ms=int(info.seconds * 1e6) / 1e3,
        outcome=info.outcome,
        outcomes=info.outcomes,
        code=info.code,
        key_id=info.key_id,
        http_request_id=info.http_request_id.decode(),
        trace_id=info.trace_id,
    )
