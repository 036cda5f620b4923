"""What is taken down of each request, whatever becomes of it."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import NamedTuple

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


class _Kind(NamedTuple):
    """What requests have in common that count as one kind."""

    take_time: Callable[[float], None]
    method: str
    route: str
    status: int
    is_probe: bool


class Observe:
    """Times, counts and logs each request by the template of its route, and names it.

    Neither what a caller sends nor an id makes a time series or comes into the log. The name is the caller's
    `X-Request-Id` where that is sane, and goes with the answer. What handlers know of a request they leave in its
    scope: `billing.outcome`, `billing.outcomes` and `billing.code`.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route], metrics: Metrics, log: RequestLog | None) -> None:
        self._app = app
        self._templates: dict[object, str] = {route.endpoint: route.path_format for route in routes}
        self._metrics = metrics
        self._log = log
        self._kinds: dict[tuple[object, str, int], _Kind] = {}

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
            self._take_down(scope, status, time.perf_counter() - started)

    def _take_down(self, scope: Scope, status: int, seconds: float) -> None:
        key = (scope.get("endpoint"), scope["method"], status)
        kind = self._kinds.get(key) or self._kind(*key)
        kind.take_time(seconds)
        scope["billing.answered"] = kind
        log = self._log
        if log is None or status < log.least or (kind.is_probe and status < FAILED and not log.probes):
            return
        caller: Caller | None = scope.get("caller")
        log.note(
            RequestLine(
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
        )

    def _kind(self, endpoint: object, method: str, status: int) -> _Kind:
        route = self._templates.get(endpoint, OTHER)
        bounded = method if method in METHODS else OTHER
        kind = _Kind(self._metrics.request(bounded, route, status), bounded, route, status, route in PROBES)
        self._kinds[endpoint, method, status] = kind
        return kind
