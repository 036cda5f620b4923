"""What is taken down of each request, whatever becomes of it."""

import time
from collections.abc import Awaitable, Callable, Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_service.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"


class Observe:
    """Times each request by the template of its route, so that neither a caller nor an id makes a time series."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route], metrics: Metrics) -> None:
        self._app = app
        self._templates: dict[object, str] = {route.endpoint: route.path_format for route in routes}
        self._metrics = metrics
        self._timers: dict[tuple[object, str, int], Callable[[float], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500  # what is answered to an exception that comes as far as here

        def note(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            key = (scope.get("endpoint"), scope["method"], status)
            (self._timers.get(key) or self._timer(key))(time.perf_counter() - started)

    def _timer(self, key: tuple[object, str, int]) -> Callable[[float], None]:
        endpoint, method, status = key
        route = self._templates.get(endpoint, OTHER)
        timer = self._metrics.request(method if method in METHODS else OTHER, route, status)
        self._timers[key] = timer
        return timer
