"""From the bytes of a response to a typed result, or to the error that it means."""

from collections.abc import Mapping, Sized
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

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
from billing_client.contract.decimals import EXACT, require_numbers
from billing_client.contract.wire import NewUsage, ProblemDetails

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
OTHER_USAGE = "the response is about other usage than the call; it may have come from a cache or a faulty proxy"
MOST_EMPTY_PAGES = 1_000  # in a row: a service that looks through many customers gives one up after some seconds
_decode_problem = msgspec.json.Decoder(ProblemDetails[Decimal]).decode


class _SentUsage(Struct, rename="camel", gc=False):
    """What the body of a use says, as far as a record repeats it."""

    customer_id: str
    service: str
    units_consumed: Decimal
    price_per_unit: Decimal
    event_id: str | None = None
    dimensions: dict[str, str] | None = None


_decode_sent = msgspec.json.Decoder(_SentUsage).decode


class Response(NamedTuple):
    """A response whose body was read to the end, except for a stream, whose body is still in `stream`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stream: aiohttp.ClientResponse


def decode_response(decoder: "msgspec.json.Decoder[T]", response: Response, call: ApiCall) -> T:
    """Decode the body of a successful response. Raises UnexpectedResponseError if it is not what was asked for."""
    try:
        found = decoder.decode(response.body)
        require_numbers(found)
    except (ValueError, RecursionError) as error:
        raise unexpected(f"the response is not what was asked for: {error}", response, call) from error
    return found


def decode_record(decoder: "msgspec.json.Decoder[R]", response: Response, call: ApiCall) -> R:
    """Decode the record that a call is about. Raises UnexpectedResponseError if it is another."""
    record = decode_response(decoder, response, call)
    if record.request_id != call.request_id:
        raise unexpected(OTHER_USAGE, response, call)
    return record


def decode_stored(decoder: "msgspec.json.Decoder[R]", response: Response, call: ApiCall, sent: NewUsage[str]) -> R:
    """Decode the record of the usage that a call sent. Raises UnexpectedResponseError if it is another.

    What is as it was sent has sound numbers, so they are looked at by themselves only to name the fault.
    """
    try:
        record = decoder.decode(response.body)
    except (ValueError, RecursionError):
        record = None
    if record is not None and record.request_id == call.request_id and is_as_sent(record, sent):
        return record
    decode_record(decoder, response, call)
    raise unexpected(OTHER_USAGE, response, call)


def require_about(found: object, call: ApiCall, **asked: object) -> None:
    """Raises UnexpectedResponseError if an answer is about something else than was asked for.

    Args:
        found: The answer, or an item of it.
        call: The call that it answers.
        asked: What its attributes must be, by name. None stands for anything.
    """
    for name, value in asked.items():
        if value is not None and getattr(found, name) != value:
            told = f"asked for {name} {value!r}, the response is about {getattr(found, name)!r}"
            detail = f"{told[:LONGEST_DETAIL]}; it may have come from a cache or a faulty proxy"
            raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))


def is_as_sent(record: wire.UsageRecord[Decimal], sent: NewUsage[str] | bytes) -> bool:
    """Whether a record holds the usage that was sent. With an event id, the request id says nothing of the numbers.

    When it occurred does not count: it is no part of what makes usage the same.
    """
    try:
        usage = _decode_sent(sent) if isinstance(sent, bytes) else sent
        units, price = record.units_consumed, record.price_per_unit
        return (  # plain text is what most numbers print as, and a new Decimal takes twice as long
            (str(units) == usage.units_consumed or units == Decimal(usage.units_consumed))
            and (str(price) == usage.price_per_unit or price == Decimal(usage.price_per_unit))
            and record.amount == EXACT.multiply(units, price)
            and record.service == usage.service
            and record.customer_id == usage.customer_id
            and record.event_id == usage.event_id
            and (record.dimensions or None) == (usage.dimensions or None)
        )
    except (ValueError, ArithmeticError):  # a body that was tampered with; a signaling NaN
        return False


def is_about_other_usage(problem: ProblemDetails[Decimal], request_id: str | None) -> bool:
    """Whether a problem names other usage than that of this request id; None stands for any."""
    named = {problem.request_id, None if problem.existing is None else problem.existing.request_id}
    return request_id is not None and not named <= {None, request_id}


def _is_no_duplicate(problem: ProblemDetails[Decimal], call: ApiCall) -> bool:
    """Whether a problem says that usage is stored already, and shows other usage."""
    if problem.code != "duplicate_record" or problem.existing is None or call.body is None:
        return False
    return not is_as_sent(problem.existing, call.body)


def decode_line(decoder: "msgspec.json.Decoder[T]", line: bytes, call: ApiCall) -> T:
    """Decode one line of a stream. Raises UnexpectedResponseError."""
    try:
        found = decoder.decode(line)
        require_numbers(found)
    except (ValueError, RecursionError) as error:
        detail = f"a line of the stream is not what was asked for: {error}"
        raise UnexpectedResponseError(detail, status=200, **call.facts("unknown")) from error
    return found


def unexpected(detail: str, response: Response, call: ApiCall) -> UnexpectedResponseError:
    """The error of a response that is outside the contract: nobody knows what became of the call."""
    return UnexpectedResponseError(detail, status=response.status, **call.facts("unknown"))


def error_from_response(response: Response, call: ApiCall) -> BillingError:
    """The error that a response other than success means.

    Raises UnexpectedResponseError if it is about other usage than the call: it says nothing about the call then.
    """
    try:
        problem = _decode_problem(response.body)
        require_numbers(problem)
    except (ValueError, RecursionError):
        kind = _BY_STATUS.get(response.status, UnexpectedResponseError)
        start = response.body[:200].decode("utf-8", "replace")
        detail = f"the service answered {response.status}: {start!r}"
        return kind(detail, status=response.status, **call.facts())
    if is_about_other_usage(problem, call.request_id) or _is_no_duplicate(problem, call):
        raise unexpected(OTHER_USAGE, response, call)
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


class Progress:
    """Notices that a list of pages has no end: that it leads back to an earlier page, or goes on without any item.

    It remembers one cursor, as R. P. Brent's algorithm does (BIT 20, 1980): whatever comes round again meets it.
    """

    def __init__(self) -> None:
        self._kept: object = None
        self._pages = self._empty = 0
        self._keep_at = 1

    def require(self, page: Sized | bool, place: object, call: ApiCall) -> None:
        """Raises UnexpectedResponseError where a page leads nowhere.

        Args:
            page: The items of the page, or whether there are any.
            place: Where it says to go on.
            call: The call that it answers.
        """
        self._empty = 0 if page else self._empty + 1
        if place == self._kept or self._empty > MOST_EMPTY_PAGES:
            what = "leads back to an earlier page" if place == self._kept else "goes on without an item"
            raise UnexpectedResponseError(f"the list {what}", status=200, **call.facts("unknown"))
        self._pages += 1
        if self._pages == self._keep_at:
            self._kept, self._keep_at = place, self._keep_at * 2
