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

__all__ = [
    "ProblemError",
    "as_problem",
    "error_response",
    "invalid",
    "invalid_input",
    "problem",
    "unavailable_response",
]
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
    known = as_problem(error, info)
    return _problem_response(known.details, info, known.headers)


def as_problem(error: Exception, info: RequestInfo) -> ProblemError:
    """The problem that a request failed with. An unexpected error is logged."""
    match error:
        case ProblemError():
            return error
        case DatabaseUnavailableError():
            _log.warning("the database is not available: %s", error)
            return _unavailable("The database is not available, or overloaded.")
        case ClientDisconnect():
            return ProblemError(problem("validation_error", "The body is incomplete. Send all of it."))
    error.add_note(f"http_request_id {info.http_request_id.decode()}, trace_id {info.trace_id}")
    _log.error("the service failed to answer %s %s", info.method, info.route, exc_info=error)
    detail = "The service failed and logged the error. Its operator finds it by the X-Request-Id."
    return ProblemError(problem("internal_error", detail))


def unavailable_response(why: str, info: RequestInfo) -> Response:
    """A 503 response that says why, and that a retry is safe. `why` is a sentence."""
    return error_response(_unavailable(why), info)


def _unavailable(why: str) -> ProblemError:
    detail = f"{why} Try again: a retry with the same Idempotency-Key is safe."
    return ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


def _problem_response(
    details: ProblemDetails[str], info: RequestInfo, headers: Mapping[str, str] | None = None
) -> Response:
    info.code = details.code
    if info.trace_id is not None:
        details = msgspec.structs.replace(details, trace_id=info.trace_id)
    return JsonResponse(details, details.status, headers, PROBLEM_TYPE)
