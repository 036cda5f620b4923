"""What is taken down of each request, whatever becomes of it."""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import count

from msgspec import Struct
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_service.callers import Caller
from billing_service.logs import FAILED, RequestLine, RequestLog
from billing_service.metrics import Metrics
from billing_service.tracing import read_trace_id

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_REQUEST_ID = re.compile(rb"[\w.:~+/=@-]{1,128}", re.ASCII)
_OF_THIS_PROCESS = secrets.token_hex(6)
_numbers = count(1)


class _Kind(Struct, eq=False, frozen=True):
    """What requests have in common that count as one kind."""

    take_times: Callable[[list[float]], None]
    method: str
    route: str
    is_probe: bool


class Observe:
    """Times, counts and logs each request by the template of its route, and names it.

    Neither what a caller sends nor an id makes a time series or comes into the log. The name is the caller's
    `X-Request-Id` where that is sane, and goes with the answer. What handlers know of a request they leave in its
    scope: `billing.outcome`, `billing.outcomes` and `billing.code`. Requests that end in one turn of the event loop
    are taken down together, after it: that takes half the CPU time of one by one.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route], metrics: Metrics, log: RequestLog | None) -> None:
        self._app = app
        self._templates = templates_of(routes)
        self._metrics = metrics
        self._log = log
        self._kinds: dict[tuple[object, str, int], _Kind] = {}
        self._ended: list[tuple[Scope, int, float]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{_OF_THIS_PROCESS}-{next(_numbers):x}".encode()
        scope["billing.http_request_id"] = request_id
        if b"traceparent" in headers and "billing.trace_id" not in scope:
            scope["billing.trace_id"] = read_trace_id(headers[b"traceparent"])
        status = FAILED  # what is answered to an exception that comes as far as here

        def note(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            return send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            scope["billing.code"] = "internal_error"
            error.add_note(f"http_request_id {request_id.decode()}, trace_id {scope.get('billing.trace_id')}")
            raise
        finally:
            if not self._ended:
                asyncio.get_running_loop().call_soon(self._take_down)
            self._ended.append((scope, status, time.perf_counter() - started))

    def _take_down(self) -> None:
        ended, self._ended = self._ended, []
        times: dict[_Kind, list[float]] = {}
        lines = []
        for scope, status, seconds in ended:
            kind = self._kind(scope, status)
            times.setdefault(kind, []).append(seconds)
            if self._log is not None and self._log.takes(status, kind.is_probe):
                lines.append(_line(scope, kind, status, seconds))
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


def _line(scope: Scope, kind: _Kind, status: int, seconds: float) -> RequestLine:
    caller: Caller | None = scope.get("caller")
    return RequestLine(
        level="info" if status < FAILED else "error",
        event="request",
        method=kind.method,
        route=kind.route,
        status=status,
        duration_ms=round(seconds * 1e3, 3),
        outcome=scope.get("billing.outcome"),
        outcomes=scope.get("billing.outcomes"),
        code=scope.get("billing.code"),
        key_id=caller.key_id if caller else None,
        http_request_id=scope["billing.http_request_id"].decode(),
        trace_id=scope.get("billing.trace_id"),
    )
