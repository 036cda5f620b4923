"""Every problem that a caller can be answered with, in one shape (RFC 9457)."""

from collections.abc import Mapping
from typing import NamedTuple

from billing_client.contract.wire import FieldConflict, FieldError, ProblemDetails, UsageRecord

MAX_EXCERPT = 64  # characters of what a caller sent, in an error's words


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
    "usage_not_counted": Kind(404, "The statement does not count this usage record"),
    "key_not_found": Kind(404, "There is no such API key"),
    "method_not_allowed": Kind(405, "This address does not take that method"),
    "not_acceptable": Kind(406, "There is no form of this that the caller accepts"),
    "request_timeout": Kind(408, "The request did not arrive in time"),
    "duplicate_record": Kind(409, "This usage is recorded already"),
    "customer_exists": Kind(409, "This customer id is taken"),
    "month_not_over": Kind(409, "The month of this statement is not over"),
    "billed_in_other_timezone": Kind(409, "This usage was billed in another time zone"),
    "records_changed": Kind(409, "Records were changed after they were recorded"),
    "payload_too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The body is not of a type this service reads"),
    "misdirected_request": Kind(421, "This host name is not served here"),
    "event_id_conflict": Kind(422, "This event id is recorded with other data"),
    "summary_too_large": Kind(422, "There are too many records to sum up for this answer"),
    "header_too_large": Kind(431, "The head of the request is too large"),
    "rate_limited": Kind(429, "Too many requests"),
    "internal_error": Kind(500, "The service failed"),
    "unavailable": Kind(503, "The service is not available"),
    "http_version_not_supported": Kind(505, "This version of HTTP is not spoken here"),
}


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


def excerpt(text: str) -> str:
    """The text, or the beginning of one that is longer than MAX_EXCERPT: no answer repeats at length what was sent."""
    return text if len(text) <= MAX_EXCERPT else f"{text[:MAX_EXCERPT]}…"


def invalid(errors: list[FieldError], max_errors: int | None = None) -> ProblemDetails[str]:
    """The problem of input with these faults, of which at most `max_errors` are named where that is given."""
    words = [f"{each.pointer or 'body'}: {each.message}" for each in errors[:3][:max_errors]]
    if max_errors is not None and len(errors) >= max_errors:
        words.append("only the first error is named" if max_errors == 1 else f"at most {max_errors} errors are named")
    return problem("validation_error", "; ".join(words), errors=errors[:max_errors])


def invalid_input(pointer: str, message: str) -> ProblemError:
    """The error of input with one fault."""
    return ProblemError(invalid([FieldError(pointer=pointer, message=message)]))


def customer_not_found(customer_id: str, request_id: str | None = None) -> ProblemDetails[str]:
    return problem("customer_not_found", f"There is no customer {excerpt(customer_id)!r}.", request_id=request_id)


def customer_exists(customer_id: str) -> ProblemDetails[str]:
    return problem("customer_exists", f"The customer id {excerpt(customer_id)!r} is taken.")


def usage_not_found(request_id: str, *, of_all: bool = False) -> ProblemDetails[str]:
    """The problem of a request id that a customer, or with `of_all` any customer, has no record of."""
    whose = "No customer" if of_all else "This customer"
    has = "has usage" if of_all else "has no usage"
    return problem("usage_not_found", f"{whose} {has} {excerpt(request_id)!r}.")


def duplicate_record(existing: UsageRecord[str] | None, record: UsageRecord[str]) -> ProblemDetails[str]:
    """The problem of usage that is recorded already, by what is stored and what was reported."""
    detail = _DUPLICATE[record.event_id is None]
    return problem("duplicate_record", detail, request_id=record.request_id, existing=existing)


def event_id_conflict(
    existing: UsageRecord[str] | None, record: UsageRecord[str], conflicts: list[FieldConflict] | None
) -> ProblemDetails[str]:
    """The problem of an event id that is recorded with other data, by what is stored and what was reported."""
    detail = "An event id names one usage; correct it under a new event id."
    return problem("event_id_conflict", detail, request_id=record.request_id, existing=existing, conflicts=conflicts)


_DUPLICATE = {
    True: "Usage with this customer, service, units, price and dimensions is recorded already, and was not recorded "
    "again. Without an eventId these fields alone decide what is the same usage: "
    "where equal usage can be distinct, give each its own eventId.",
    False: "Usage with this customer and eventId is recorded already, and was not recorded again.",
}
