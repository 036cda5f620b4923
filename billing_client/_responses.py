"""From the bytes of a response to a typed result, or to the error that it means."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

from billing_client._calls import ApiCall
from billing_client._errors import (
    AuthenticationError,
    BillingError,
    CustomerExistsError,
    CustomerNotFoundError,
    DuplicateRecordError,
    EventIdConflictError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    ResponseError,
    StatementNotFoundError,
    UnavailableError,
    UnexpectedResponseError,
    UsageNotFoundError,
    ValidationError,
)
from billing_client._records import UsageRecord
from billing_client.contract import wire
from billing_client.contract.wire import ProblemDetails

T = TypeVar("T")
R = TypeVar("R", bound=wire.UsageRecord[Decimal])

LONGEST_DETAIL, LONGEST_CODE = 2_000, 100  # characters that an error repeats of a problem
# codes that the service answers only after it looked for the usage: no earlier attempt of the call recorded it either
WORK_REFUSED_CODES = frozenset(
    {"validation_error", "customer_not_found", "duplicate_record", "customer_exists", "event_id_conflict"}
)

_BY_CODE: dict[str, type[ResponseError]] = {
    "customer_not_found": CustomerNotFoundError,
    "usage_not_found": UsageNotFoundError,
    "statement_not_found": StatementNotFoundError,
    "customer_exists": CustomerExistsError,
}
_BY_STATUS: dict[int, type[ResponseError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: UnavailableError,
    413: PayloadTooLargeError,
    429: RateLimitedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_OTHER_USAGE = "the response is about other usage than the call; it may have come from a cache or a faulty proxy"
_decode_problem = msgspec.json.Decoder(ProblemDetails[Decimal]).decode


class Response(NamedTuple):
    """A response whose body was read to the end, except for a stream, whose body is still in `stream`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stream: aiohttp.ClientResponse


def decode_response(decoder: "msgspec.json.Decoder[T]", response: Response, call: ApiCall) -> T:
    """Decode the body of a successful response. Raises UnexpectedResponseError if it is not what was asked for."""
    try:
        return decoder.decode(response.body)
    except (ValueError, RecursionError) as error:
        raise unexpected(f"the response is not what was asked for: {error}", response, call) from error


def decode_record(decoder: "msgspec.json.Decoder[R]", response: Response, call: ApiCall) -> R:
    """Decode the record that a call is about. Raises UnexpectedResponseError if it is another."""
    record = decode_response(decoder, response, call)
    if record.request_id != call.request_id:
        raise unexpected(_OTHER_USAGE, response, call)
    return record


def is_about_other_usage(problem: ProblemDetails[Decimal], request_id: str | None) -> bool:
    """Whether a problem names other usage than that of this request id; None stands for any."""
    named = {problem.request_id, None if problem.existing is None else problem.existing.request_id}
    return request_id is not None and not named <= {None, request_id}


def decode_line(decoder: "msgspec.json.Decoder[T]", line: bytes, call: ApiCall) -> T:
    """Decode one line of a stream. Raises UnexpectedResponseError."""
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError) as error:
        detail = f"a line of the stream is not what was asked for: {error}"
        raise UnexpectedResponseError(detail, status=200, **call.facts("unknown")) from error


def unexpected(detail: str, response: Response, call: ApiCall) -> UnexpectedResponseError:
    """The error of a response that is outside the contract: nobody knows what became of the call."""
    return UnexpectedResponseError(detail, status=response.status, **call.facts("unknown"))


def error_from_response(response: Response, call: ApiCall) -> BillingError:
    """The error that a response other than success means.

    Raises UnexpectedResponseError if it is about other usage than the call: it says nothing about the call then.
    """
    try:
        problem = _decode_problem(response.body)
    except (ValueError, RecursionError):
        kind = _BY_STATUS.get(response.status, UnexpectedResponseError)
        start = response.body[:200].decode("utf-8", "replace")
        detail = f"the service answered {response.status}: {start!r}"
        return kind(detail, status=response.status, **call.facts())
    if is_about_other_usage(problem, call.request_id):
        raise unexpected(_OTHER_USAGE, response, call)
    return error_from_problem(problem, response.status, call.facts())


def error_from_problem(problem: ProblemDetails[Decimal], status: int, facts: dict[str, Any]) -> BillingError:
    """The error that a problem (RFC 9457) means; `facts` are those of its call."""
    given = {**facts, "status": status, "code": problem.code[:LONGEST_CODE]}
    detail = problem.detail[:LONGEST_DETAIL]
    given["request_id"] = problem.request_id or facts.get("request_id")
    if problem.existing is not None and problem.code == "duplicate_record":
        duplicate = DuplicateRecordError(detail, **given)
        duplicate.existing = _stored_before(problem.existing)
        return duplicate
    if problem.existing is not None and problem.code == "event_id_conflict":
        conflict = EventIdConflictError(detail, **given)
        conflict.existing, conflict.conflicts = _stored_before(problem.existing), problem.conflicts or []
        return conflict
    if status in (400, 415) or problem.code == "summary_too_large":
        return ValidationError(detail, errors=problem.errors or [], **given)
    kind = _BY_CODE.get(problem.code) or _BY_STATUS.get(status, UnexpectedResponseError)
    return kind(detail, **given)


def _stored_before(record: wire.UsageRecord[Decimal]) -> UsageRecord:
    return UsageRecord(**msgspec.structs.asdict(record) | {"dimensions": record.dimensions or {}}, outcome="duplicate")
