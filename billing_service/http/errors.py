"""Every error a caller can get, in one shape (RFC 9457), made by one handler."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_client.contract.problems import ProblemError, invalid, invalid_input, problem
from billing_client.contract.wire import ProblemDetails
from billing_service.database.pool import DatabaseUnavailableError
from billing_service.http.responses import JsonResponse

__all__ = [
    "EveryAnswer",
    "ProblemError",
    "answer_error",
    "invalid",
    "invalid_input",
    "problem",
    "problem_response",
]
_log = logging.getLogger(__name__)
RETRY_AFTER_SECONDS = "1"
PROBLEM_TYPE = "application/problem+json"
EXPECTED_ERRORS = (ProblemError, HTTPException, DatabaseUnavailableError, ClientDisconnect)
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_NO_SNIFFING, _NO_STORE = ((name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items())
_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}


async def answer_error(request: Request, error: Exception) -> Response:
    """Turn any error into its answer. Starlette calls it for all of them."""
    scope = request.scope
    match error:
        case ProblemError():
            return problem_response(scope, error.details, error.headers)
        case HTTPException():
            code = _BY_STATUS.get(error.status_code, "validation_error")
            headers = {"Allow": _allowed_methods(request)} if code == "method_not_allowed" else error.headers
            return problem_response(scope, problem(code, f"{HTTPStatus(error.status_code).phrase}."), headers)
        case DatabaseUnavailableError():
            _log.warning("the database is not available: %s", error)
            return _unavailable(scope, "The database is away or overloaded.")
        case ClientDisconnect():
            return problem_response(scope, problem("validation_error", "The body ended before its announced length."))
        case _:
            details = problem("internal_error", "The fault is the service's own and was logged.")
            # this answer passes by what adds to the others; uvicorn hangs up after a fault
            headers = {"Connection": "close", "X-Request-Id": scope["billing.http_request_id"].decode()}
            return problem_response(scope, details, SAFE_HEADERS | headers)


def _unavailable(scope: Scope, why: str) -> Response:
    detail = f"{why} Try again: a retry with the same Idempotency-Key is safe."
    return problem_response(scope, problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


def problem_response(scope: Scope, details: ProblemDetails[str], headers: Mapping[str, str] | None = None) -> Response:
    scope["billing.code"] = details.code
    if trace_id := scope.get("billing.trace_id"):
        details = msgspec.structs.replace(details, trace_id=trace_id)
    return JsonResponse(details, details.status, headers, PROBLEM_TYPE)


class EveryAnswer:
    """What holds for every answer: no browser takes it for what it is not, and none is kept unless it says so itself.

    From the moment the service was told to stop each answer closes its connection (RFC 9112, section 9.6), so that its
    caller goes elsewhere and loses nothing when the service hangs up. The calls that its end cuts off, once it has
    waited for them as long as it may, are answered too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        def note(message: Message) -> Awaitable[None]:
            nonlocal answered
            answered = True
            if message["type"] == "http.response.start":
                headers = message["headers"] = [*message["headers"], _NO_SNIFFING]
                if b"cache-control" not in dict(headers):
                    headers.append(_NO_STORE)
                if scope["app"].state.stop.announced:
                    headers.append((b"connection", b"close"))
            return send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if answered or scope["type"] != "http":
                raise
            await _unavailable(scope, "The service is stopping.")(scope, receive, note)


def _allowed_methods(request: Request) -> str:
    """All methods of an address (RFC 9110, section 15.5.6); Starlette names those of its first route alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods}))
