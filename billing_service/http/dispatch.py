"""Handles ASGI requests: assigns a request id, finds the operation, turns errors into problems, adds headers."""

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from itertools import count
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from billing_client.contract.wire import ProblemDetails
from billing_service.http.errors import SAFE_HEADERS, ProblemError, as_problem, error_response, unavailable_response
from billing_service.http.hosts import HostNames
from billing_service.http.limits.standings import rate_limit_headers
from billing_service.http.operations import Operation, answer_operation
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.http.router import Router
from billing_service.http.services import Services
from billing_service.telemetry.request_log import PROBES, RequestInfo
from billing_service.telemetry.tracing import read_trace_id

_REQUEST_ID = re.compile(rb"[\w.:~+/=@-]{1,128}", re.ASCII)
_PROCESS_PREFIX = secrets.token_hex(6)
_numbers = count(1)
_NO_SNIFFING, _SAME_ORIGIN, _NO_STORE = (
    (name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items()
)
_CLOSE = (b"connection", b"close")
REFUSAL = "billing_service.refusal"  # where in the scope of a request the Refusal of its connection stands


class Refusal(NamedTuple):
    """How a connection answered a request whose body did not arrive, and the `X-Request-Id` of that answer."""

    details: ProblemDetails[str]
    http_request_id: bytes


class Dispatcher:
    """The ASGI application that answers all HTTP requests."""

    def __init__(self, operations: Iterable[Operation], services: Services) -> None:
        self._router = Router(operations)
        self._hosts = HostNames(services.settings)
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, then count and log it. Raises errors that occur after the response has begun."""
        started = time.perf_counter()
        fields: dict[bytes, bytes] = dict(scope["headers"])
        if len(fields) != len(scope["headers"]):
            fields = _join_repeated(scope["headers"])
        info = RequestInfo(method=scope["method"], http_request_id=http_request_id(fields))
        if b"traceparent" in fields:
            info.trace_id = read_trace_id(fields[b"traceparent"])
        request = ApiRequest(scope, receive, send, self._services, info, fields)
        traces = self._services.traces
        try:
            if traces.is_on and scope["path"] not in PROBES:
                with traces.request(info, fields):
                    await self._answer(request, send)
            else:
                await self._answer(request, send)
        finally:
            self._services.requests.add(info, time.perf_counter() - started)

    async def _answer(self, request: ApiRequest, send: Send) -> None:
        response = await self._response(request)
        request.info.status = response.status_code
        self._add_headers(response, request)
        if not (isinstance(response, JsonResponse) and response.is_sent_by(request.exchange)):
            await response(request.scope, request.receive, send)

    async def _response(self, request: ApiRequest) -> Response:
        error_page = None
        try:
            host = request.fields.get(b"host")
            if host not in self._hosts.served:
                self._hosts.require(host, request.scope["http_version"])
            address, request.ids = self._router.find(request.scope["raw_path"])
            request.info.route = address.path
            operation = address.operation(request.info.method)
            error_page = operation.error_page
            return await answer_operation(operation, request)
        except asyncio.CancelledError:  # the server stops, and the time for requests in progress is over
            return unavailable_response("The service is stopping.", request.info)
        except ClientDisconnect as error:
            return error_response(_refused(request) or error, request.info)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a response
            if error_page is not None:
                return error_page(request, as_problem(error, request.info))
            return error_response(error, request.info)
        finally:
            if request.held_bytes:
                request.release_body()

    def _add_headers(self, response: Response, request: ApiRequest) -> None:
        """Add the headers of every response. After an announced shutdown it closes its connection (RFC 9112, 9.6)."""
        headers = response.raw_headers
        if b"cache-control" not in dict(headers):
            headers.append(_NO_STORE)
        headers += ((b"x-request-id", request.info.http_request_id), _NO_SNIFFING, _SAME_ORIGIN)
        if request.standings:
            headers += rate_limit_headers(request.standings)
        if self._services.shutdown.announced:
            headers.append(_CLOSE)


def _refused(request: ApiRequest) -> ProblemError | None:
    """The error that the connection answered the request with; None if it was the caller who went away."""
    refusal: Refusal | None = request.scope.get(REFUSAL)
    if refusal is None:
        return None
    request.info.http_request_id = refusal.http_request_id
    return ProblemError(refusal.details)


def http_request_id(fields: Mapping[bytes, bytes]) -> bytes:
    """The caller's `X-Request-Id` if it has only safe characters and at most 128 of them, else a new id."""
    given = fields.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_PROCESS_PREFIX}-{next(_numbers):x}".encode()


def _join_repeated(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields
