"""From an ASGI call to an answer: names the request, finds the operation, turns errors into problems, adds headers."""

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from itertools import count

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from billing_service.http.errors import SAFE_HEADERS, ProblemError, error_response, unavailable_response
from billing_service.http.hosts import HostNames
from billing_service.http.operations import Operation, answer_operation
from billing_service.http.rate_limits import rate_limit_headers
from billing_service.http.requests import ApiRequest
from billing_service.http.router import Match, Router
from billing_service.http.services import Services
from billing_service.telemetry.request_log import RequestInfo
from billing_service.telemetry.tracing import read_trace_id

_REQUEST_ID = re.compile(rb"[\w.:~+/=@-]{1,128}", re.ASCII)
_OF_THIS_PROCESS = secrets.token_hex(6)
_numbers = count(1)
_NO_SNIFFING, _NO_STORE = ((name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items())
_CLOSE = (b"connection", b"close")


class Dispatcher:
    """Answers the requests of an ASGI server."""

    def __init__(self, operations: Iterable[Operation], services: Services) -> None:
        self._router = Router(operations)
        self._hosts = HostNames(services.settings)
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and note how it ended. Raises what breaks an answer that has begun."""
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        info = RequestInfo(
            method=scope["method"],
            http_request_id=http_request_id(headers),
            trace_id=read_trace_id(headers.get(b"traceparent")),
        )
        match = self._find(scope, info, headers.get(b"host"))
        try:
            with self._services.traces.request(info, headers):
                request = ApiRequest(scope, receive, send, self._services, info)
                try:
                    response = await self._answer(match, request)
                finally:
                    request.release_body()
                info.status = response.status_code
                self._add_headers(response, request)
                await response(scope, receive, send)
        finally:
            self._services.requests.add(info, time.perf_counter() - started)

    def _find(self, scope: Scope, info: RequestInfo, host: bytes | None) -> Match | ProblemError:
        try:
            self._hosts.require(host)
            match = self._router.find(info.method, scope["raw_path"].partition(b"?")[0])
        except ProblemError as error:
            return error
        info.route = match.operation.path
        return match

    async def _answer(self, match: Match | ProblemError, request: ApiRequest) -> Response:
        try:
            if isinstance(match, ProblemError):
                raise match
            request.ids = match.ids()
            return await answer_operation(match.operation, request)
        except asyncio.CancelledError:  # the server's patience with calls under way is over
            return unavailable_response("The service is stopping.", request.info)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return error_response(error, request.info)

    def _add_headers(self, response: Response, request: ApiRequest) -> None:
        """Add what every answer says. Once the service was told to stop, each closes its connection (RFC 9112, 9.6)."""
        headers = response.raw_headers
        headers.append((b"x-request-id", request.info.http_request_id))
        headers.append(_NO_SNIFFING)
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append(_NO_STORE)
        if request.standings:
            headers.extend(rate_limit_headers(request.standings))
        if self._services.shutdown.announced:
            headers.append(_CLOSE)


def http_request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """The name of a request: the caller's `X-Request-Id` where it is safe to repeat, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_OF_THIS_PROCESS}-{next(_numbers):x}".encode()
