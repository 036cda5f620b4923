"""Every error a caller can get, in one shape (RFC 9457), made by one handler."""

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_client.wire import FieldConflict, FieldError, ProblemDetails, UsageRecord
from billing_service.database import DatabaseUnavailableError

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
RETRY_AFTER_SECONDS = "1"
PROBLEM_TYPE = "application/problem+json"


class Kind(NamedTuple):
    status: int
    title: str


KINDS = {
    "validation_error": Kind(400, "The input is not valid"),
    "unauthenticated": Kind(401, "No valid API key was given"),
    "forbidden": Kind(403, "The API key does not permit this"),
    "not_found": Kind(404, "There is nothing at this address"),
    "customer_not_found": Kind(404, "There is no such customer"),
    "usage_not_found": Kind(404, "There is no such usage record"),
    "statement_not_found": Kind(404, "There is no such statement"),
    "method_not_allowed": Kind(405, "This address does not take that method"),
    "not_acceptable": Kind(406, "There is no form of this that the caller accepts"),
    "duplicate_record": Kind(409, "This usage is recorded already"),
    "customer_exists": Kind(409, "This customer id is taken"),
    "payload_too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The body is not of a type this service reads"),
    "event_id_conflict": Kind(422, "This event id is recorded with other data"),
    "header_too_large": Kind(431, "The head of the request is too large"),
    "rate_limited": Kind(429, "Too many requests"),
    "internal_error": Kind(500, "The service failed"),
    "unavailable": Kind(503, "The service is not available"),
}
_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}


class ProblemError(Exception):
    """A problem to answer with; `headers` go with the answer."""

    def __init__(self, details: ProblemDetails[str], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(details.detail)
        self.details = details
        self.headers = headers


def problem(
    code: str,
    detail: str,
    *,
    request_id: str | None = None,
    errors: list[FieldError] | None = None,
    existing: UsageRecord[str] | None = None,
    conflicts: list[FieldConflict] | None = None,
) -> ProblemDetails[str]:
    """The problem of this code, with a detail for this occurrence."""
    kind = KINDS[code]
    return ProblemDetails(
        type=f"urn:billing:problem:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=errors,
        existing=existing,
        conflicts=conflicts,
    )


def invalid(errors: list[FieldError]) -> ProblemDetails[str]:
    """The problem of input with these faults."""
    return problem(
        "validation_error", "; ".join(f"{e.pointer or 'body'}: {e.message}" for e in errors[:3]), errors=errors
    )


def invalid_input(pointer: str, message: str) -> ProblemError:
    """The error of input with one fault."""
    return ProblemError(invalid([FieldError(pointer=pointer, message=message)]))


async def answer_error(request: Request, error: Exception) -> Response:
    """Turn any error into its answer. Starlette calls it for all of them."""
    match error:
        case ProblemError():
            return problem_response(error.details, error.headers)
        case HTTPException():
            code = _BY_STATUS.get(error.status_code, "validation_error")
            headers = {"Allow": _allowed_methods(request)} if code == "method_not_allowed" else error.headers
            return problem_response(problem(code, f"{HTTPStatus(error.status_code).phrase}."), headers)
        case DatabaseUnavailableError():
            _log.warning("the database is not available: %s", error)
            return _unavailable("The database is away or overloaded.")
        case ClientDisconnect():
            return problem_response(problem("validation_error", "The body ended before its announced length."))
        case _:
            details = problem("internal_error", "The fault is the service's own and was logged.")
            return problem_response(details, {"Connection": "close"})  # as uvicorn does after a fault


def _unavailable(why: str) -> Response:
    detail = f"{why} Try again: a retry with the same Idempotency-Key is safe."
    return problem_response(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


class AnswerCutOffs:
    """Answers the calls that the end of the service cuts off, once it has waited for them as long as it may."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def note(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if answered or scope["type"] != "http":
                raise
            await _unavailable("The service is stopping.")(scope, receive, send)


def _allowed_methods(request: Request) -> str:
    """All methods of an address (RFC 9110, section 15.5.6); Starlette names those of its first route alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


def problem_response(details: ProblemDetails[str], headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(details), details.status, headers, media_type=PROBLEM_TYPE)
