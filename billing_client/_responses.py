"""From the bytes of an answer to what the caller gets: a typed result, or the error that fits."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

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

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
# what the service says only after it has looked for the usage: no attempt of the call has recorded it either
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
_decode_problem = msgspec.json.Decoder(ProblemDetails[Decimal]).decode


class Answer(NamedTuple):
    """An answer; its body was read to the end, but for a stream's, which `response` holds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    response: aiohttp.ClientResponse


def decode_answer(decoder: "msgspec.json.Decoder[T]", answer: Answer, facts: dict[str, Any]) -> T:
    """The body of a successful answer. Raises UnexpectedResponseError."""
    try:
        return decoder.decode(answer.body)
    except (ValueError, RecursionError) as error:
        detail = f"the answer is not what was asked for: {error}"
        raise UnexpectedResponseError(detail, status=answer.status, **facts | {"outcome": "unknown"}) from error


def decode_line(decoder: "msgspec.json.Decoder[T]", line: bytes, facts: dict[str, Any]) -> T:
    """One line of a streamed answer. Raises UnexpectedResponseError."""
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError) as error:
        raise UnexpectedResponseError(f"a line is not what was asked for: {error}", status=200, **facts) from error


def error_of(answer: Answer, facts: dict[str, Any]) -> BillingError:
    """The error that an answer other than success is."""
    try:
        details = _decode_problem(answer.body)
    except (ValueError, RecursionError):
        kind = _BY_STATUS.get(answer.status, UnexpectedResponseError)
        start = answer.body[:200].decode("utf-8", "replace")
        return kind(f"the service answered {answer.status}: {start!r}", status=answer.status, **facts)
    return error_of_problem(details, facts, answer.status)


def error_of_problem(
    details: ProblemDetails[Decimal], facts: dict[str, Any], status: int | None = None
) -> BillingError:
    """The error that a problem is."""
    status = status or details.status
    given = {**facts, "status": status, "code": details.code}
    given["request_id"] = details.request_id or facts.get("request_id")
    if details.existing is not None and details.code == "duplicate_record":
        duplicate = DuplicateRecordError(details.detail, **given)
        duplicate.existing = stored(details.existing)
        return duplicate
    if details.existing is not None and details.code == "event_id_conflict":
        conflict = EventIdConflictError(details.detail, **given)
        conflict.existing, conflict.conflicts = stored(details.existing), details.conflicts or []
        return conflict
    if status in (400, 415):
        return ValidationError(details.detail, errors=details.errors or [], **given)
    kind = _BY_CODE.get(details.code) or _BY_STATUS.get(status, UnexpectedResponseError)
    return kind(details.detail, **given)


def stored(record: wire.UsageRecord[Decimal]) -> UsageRecord:
    """The stored record that another call had recorded."""
    return UsageRecord(**msgspec.structs.asdict(record), outcome="duplicate")
