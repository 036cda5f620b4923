"""What is taken down of each request that has ended: counted by the template of its route, and a line of the log."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import Struct
from starlette.routing import Route
from starlette.types import Scope

from billing_service.http.auth import Caller
from billing_service.telemetry.logs import FAILED, RequestLine, RequestLog
from billing_service.telemetry.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
TOGETHER_SECONDS = 0.02


class _Kind(Struct, eq=False, frozen=True):
    """What requests have in common that count as one kind."""

    take_times: Callable[[list[float]], None]
    method: str
    route: str
    is_probe: bool


class _Ended(NamedTuple):
    scope: Scope
    status: int
    seconds: float
    at: datetime


class Journal:
    """The requests that have ended, which are counted and logged together: those of TOGETHER_SECONDS, or fewer.

    One by one, between an answer and the next request, took a lone caller 50 µs a call.
    """

    def __init__(self, routes: Iterable[Route], metrics: Metrics, log: RequestLog | None) -> None:
        self._templates = templates_of(routes)
        self._metrics = metrics
        self._log = log
        self._kinds: dict[tuple[object, str, int], _Kind] = {}
        self._ended: list[_Ended] = []

    def add(self, scope: Scope, status: int, seconds: float) -> None:
        """A request ended just now.

        What handlers know of it they leave in its scope: `billing.outcome`, `billing.outcomes` and `billing.code`.
        Neither what a caller sends nor an id makes a time series.
        """
        if not self._ended:
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self.write)
        self._ended.append(_Ended(scope, status, seconds, datetime.now(UTC)))

    def write(self) -> None:
        """Count and log those that have ended so far, and count the commits that they waited for."""
        self._metrics.count_commits()
        ended, self._ended = self._ended, []
        times: dict[_Kind, list[float]] = {}
        lines = []
        for one in ended:
            kind = self._kind(one.scope, one.status)
            times.setdefault(kind, []).append(one.seconds)
            if self._log is not None and self._log.takes(one.status, kind.is_probe):
                lines.append(_line(one, kind))
        for kind, of_kind in times.items():
            kind.take_times(of_kind)
        if self._log is not None and lines:
            self._log.write(lines)

    def _kind(self, scope: Scope, status: int) -> _Kind:
        endpoint, method = scope.get("endpoint"), scope["method"]
        kind = self._kinds.get((endpoint, method, status))
        if kind is None:
            bounded, route = bounded_method(method), self._templates.get(endpoint, OTHER)
            kind = _Kind(self._metrics.request(bounded, route, status), bounded, route, route in PROBES)
            self._kinds[endpoint, method, status] = kind
        return kind


def templates_of(routes: Iterable[Route]) -> dict[object, str]:
    """The templates of routes by what answers there."""
    return {route.endpoint: route.path_format for route in routes}


def bounded_method(method: str) -> str:
    return method if method in METHODS else OTHER


def _line(ended: _Ended, kind: _Kind) -> RequestLine:
    scope = ended.scope
    caller: Caller | None = scope.get("caller")
    return RequestLine(
        timestamp=ended.at,
        level="info" if ended.status < FAILED else "error",
        event="request",
        method=kind.method,
        route=kind.route,
        status=ended.status,
        duration_ms=round(ended.seconds * 1e3, 3),
        outcome=scope.get("billing.outcome"),
        outcomes=scope.get("billing.outcomes"),
        code=scope.get("billing.code"),
        key_id=caller.key_id if caller else None,
        http_request_id=scope["billing.http_request_id"].decode(),
        trace_id=scope.get("billing.trace_id"),
    )
