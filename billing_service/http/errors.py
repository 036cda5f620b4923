"""Error responses: every error becomes an RFC 9457 problem here."""

import logging
from collections.abc import Mapping

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from billing_client.contract.problems import ProblemError, invalid, invalid_input, problem
from billing_client.contract.wire import ProblemDetails
from billing_service.database.pool import DatabaseUnavailableError
from billing_service.http.responses import JsonResponse
from billing_service.telemetry.request_log import RequestInfo

__all__ = ["ProblemError", "error_response", "invalid", "invalid_input", "problem", "unavailable_response"]
_log = logging.getLogger(__name__)
RETRY_AFTER_SECONDS = "1"
PROBLEM_TYPE = "application/problem+json"
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def error_response(error: Exception, info: RequestInfo) -> Response:
    """The response to a request that failed with this error. An unexpected error is logged and answered with 500."""
    match error:
        case ProblemError():
            return _problem_response(error.details, info, error.headers)
        case DatabaseUnavailableError():
            _log.warning("the database is not available: %s", error)
            return unavailable_response("The database is not available, or overloaded.", info)
        case ClientDisconnect():
            return _problem_response(problem("validation_error", "The body is incomplete. Send all of it."), info)
    error.add_note(f"http_request_id {info.http_request_id.decode()}, trace_id {info.trace_id}")
    _log.error("the service failed to answer %s %s", info.method, info.route, exc_info=error)
    detail = "The service failed and logged the error. Its operator finds it by the X-Request-Id."
    return _problem_response(problem("internal_error", detail), info)


def unavailable_response(why: str, info: RequestInfo) -> Response:
    """A 503 response that says why, and that a retry is safe. `why` is a sentence."""
    detail = f"{why} Try again: a retry with the same Idempotency-Key is safe."
    return _problem_response(problem("unavailable", detail), info, {"Retry-After": RETRY_AFTER_SECONDS})


def _problem_response(
    details: ProblemDetails[str], info: RequestInfo, headers: Mapping[str, str] | None = None
) -> Response:
    info.code = details.code
    if info.trace_id is not None:
        details = msgspec.structs.replace(details, trace_id=info.trace_id)
    return JsonResponse(details, details.status, headers, PROBLEM_TYPE)
