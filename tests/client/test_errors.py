"""The errors: one for each answer, what they say of the call, and that they are what their file draws."""

import copy
import pickle
import re
from typing import Any

import pytest

import billing_client
from billing_client import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    CustomerExistsError,
    CustomerNotFoundError,
    DeadlineExceededError,
    DuplicateRecordError,
    EventIdConflictError,
    FieldConflict,
    FieldError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    ResponseError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
    UsageNotFoundError,
    ValidationError,
    _errors,
)
from billing_client.contract.identity import event_request_id
from tests.client.answers import STORED, USAGE, client_of, json_answer, problem, recorded
from tests.client.misbehaving import Step, answer, disconnect, misbehaving, raw, refuse_after, reset, silent

CONFLICT = {"field": "unitsConsumed", "recorded": "1", "submitted": "2"}
OF_PROBLEMS: list[tuple[int, str, dict[str, Any], type[BillingError]]] = [
    (400, "validation_error", {"errors": [{"pointer": "/service", "message": "is required"}]}, ValidationError),
    (415, "unsupported_media_type", {}, ValidationError),
    (401, "unauthenticated", {}, AuthenticationError),
    (403, "forbidden", {}, PermissionDeniedError),
    (404, "not_found", {}, NotFoundError),
    (404, "customer_not_found", {}, CustomerNotFoundError),
    (404, "usage_not_found", {}, UsageNotFoundError),
    (405, "method_not_allowed", {}, UnexpectedResponseError),
    (409, "duplicate_record", {"existing": STORED}, DuplicateRecordError),
    (409, "customer_exists", {}, CustomerExistsError),
    (409, "something_new", {}, UnexpectedResponseError),
    (413, "payload_too_large", {}, PayloadTooLargeError),
    (422, "event_id_conflict", {"existing": STORED, "conflicts": [CONFLICT]}, EventIdConflictError),
    (429, "rate_limited", {}, RateLimitedError),
    (500, "internal_error", {}, UnexpectedResponseError),
    (408, "request_timeout", {}, UnavailableError),
    (502, "bad_gateway", {}, UnavailableError),
    (503, "unavailable", {}, UnavailableError),
    (504, "gateway_timeout", {}, UnavailableError),
]
OF_OTHER_ANSWERS = {
    302: UnexpectedResponseError,
    400: UnexpectedResponseError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: UnexpectedResponseError,
    413: PayloadTooLargeError,
    418: UnexpectedResponseError,
    422: UnexpectedResponseError,
    429: RateLimitedError,
    500: UnexpectedResponseError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
ODD_BODIES = {
    "nothing": b"",
    "a page": b"<html><h1>It went wrong</h1></html>",
    "not UTF-8": b"\xff\xfe\x00",
    "of another shape": b'["It went wrong"]',
    "less than a problem": b'{"title": "It went wrong"}',
    "a problem with a broken record": (
        b'{"type":"","title":"","status":409,"detail":"","code":"duplicate_record","existing":{"requestId":5}}'
    ),
    "nested deeply": b"[" * 1_000_000,
    "nested deeply in a member": b'{"type":' * 1_000_000,
    "huge": b"x" * 5_000_000,
}


async def error_of(*script: Step, **settings: Any) -> BillingError:
    """The error of a call that meets this script."""
    async with misbehaving(*script) as server, client_of(server, **{"max_attempts": 2, **settings}) as client:
        with pytest.raises(BillingError) as caught:
            await client.record_usage(**USAGE, idempotency_key="call-1")
    return caught.value


@pytest.mark.parametrize(("status", "code", "members", "expected"), OF_PROBLEMS)
async def test_each_problem_is_an_error_of_its_own(
    status: int, code: str, members: dict[str, Any], expected: type[BillingError]
) -> None:
    error = await error_of(problem(status, code, **members))
    assert type(error) is expected
    assert (error.status, error.code, error.detail) == (status, code, "What is wrong.")
    assert error.request_id == event_request_id("acme", "event-1")
    assert error.attempts == (2 if status in (408, 429, 502, 503, 504) else 1)
    assert error.idempotency_key == "call-1"
    assert error.outcome == ("rejected" if status < 500 else "unknown")
    for fact in ("What is wrong.", f"status {status}", f"code {code}", f"outcome {error.outcome}"):
        assert fact in str(error)


async def test_what_a_problem_tells_besides_is_kept() -> None:
    invalid = await error_of(problem(400, "validation_error", errors=[{"pointer": "/service", "message": "wrong"}]))
    assert isinstance(invalid, ValidationError)
    assert invalid.errors == [FieldError(pointer="/service", message="wrong")]
    duplicate = await error_of(problem(409, "duplicate_record", existing=STORED, requestId=STORED["requestId"]))
    assert isinstance(duplicate, DuplicateRecordError)
    assert duplicate.request_id == STORED["requestId"]
    assert (duplicate.existing.request_id, duplicate.existing.outcome) == (STORED["requestId"], "duplicate")
    conflict = await error_of(problem(422, "event_id_conflict", existing=STORED, conflicts=[CONFLICT]))
    assert isinstance(conflict, EventIdConflictError)
    assert conflict.existing.request_id == STORED["requestId"]
    assert conflict.conflicts == [FieldConflict(field="unitsConsumed", recorded="1", submitted="2")]


async def test_a_server_can_neither_steer_the_terminal_nor_fill_the_log() -> None:
    evil = "\x1b]0;title\x07\x9b2J\n\u202e"
    for error in (
        await error_of(problem(400, "validation_error\x1b[2J", detail=evil)),
        await error_of(answer(400, evil.encode())),
        await error_of(raw(b"HTTP/1.1 200 OK\r\nX-A: \x00\x1b[2J\r\n\r\n"), max_attempts=1),
    ):
        assert str(error).isprintable(), error
        assert error.detail.isprintable()
    long = await error_of(problem(400, "validation_error", detail="x" * 1_000_000))
    assert len(str(long)) < 3_000


ABOUT_OTHERS = {
    "a 201": json_answer(201, STORED | {"requestId": "cd" * 32}),
    "a duplicate": problem(409, "duplicate_record", existing=STORED | {"requestId": "cd" * 32}),
    "a duplicate that says it is ours": problem(
        409, "duplicate_record", existing=STORED | {"requestId": "cd" * 32}, requestId=STORED["requestId"]
    ),
    "a conflict": problem(422, "event_id_conflict", existing=STORED | {"requestId": "cd" * 32}, conflicts=[]),
    "no customer": problem(404, "customer_not_found", requestId="cd" * 32),
    "invalid": problem(400, "validation_error", requestId="cd" * 32),
}


@pytest.mark.parametrize("step", ABOUT_OTHERS.values(), ids=ABOUT_OTHERS.keys())
async def test_an_answer_about_other_usage_says_nothing_of_the_call(step: Step) -> None:
    error = await error_of(step)
    assert type(error) is UnexpectedResponseError
    assert (error.outcome, error.request_id) == ("unknown", STORED["requestId"])
    assert "about other usage" in error.detail


async def test_a_read_or_void_of_a_record_that_is_answered_with_another() -> None:
    void = {"voidReason": "test", "voidedBy": "anonymous"}
    async with misbehaving(json_answer(200, STORED | void)) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError, match="about other usage"):
            await client.get_usage(customer_id="acme", request_id="cd" * 32)
        with pytest.raises(UnexpectedResponseError, match="about other usage"):
            await client.void_usage(customer_id="acme", request_id="cd" * 32, reason="test")


async def test_a_refusal_without_the_record_it_is_about_is_unexpected() -> None:
    for status, code in ((409, "duplicate_record"), (422, "event_id_conflict")):
        assert type(await error_of(problem(status, code))) is UnexpectedResponseError


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES.keys())
async def test_an_error_of_any_other_form_is_told_by_its_status(body: bytes) -> None:
    for status, expected in OF_OTHER_ANSWERS.items():
        error = await error_of(answer(status, body), max_attempts=1)
        assert type(error) is expected
        assert (error.status, error.code, error.attempts) == (status, None, 1)
        assert str(status) in error.detail
        assert len(str(error)) < 2_000


OUTCOMES: dict[str, tuple[list[Step], type[BillingError], str]] = {
    "too often": ([problem(429, "rate_limited")], RateLimitedError, "rejected"),
    "too often, then refused": ([refuse_after(problem(429, "rate_limited"))], TransportError, "rejected"),
    "disconnect": ([disconnect], TransportError, "unknown"),
    "disconnect, then refused": ([refuse_after(disconnect)], TransportError, "unknown"),
    "reset, then too often": ([reset, problem(429, "rate_limited")], RateLimitedError, "unknown"),
    "away": ([problem(503, "unavailable")], UnavailableError, "unknown"),
    "away, then too often": ([problem(503, "unavailable"), problem(429, "x")], RateLimitedError, "unknown"),
    "too often, then no key": ([problem(429, "x"), problem(401, "unauthenticated")], AuthenticationError, "rejected"),
    "no key": ([problem(401, "unauthenticated")], AuthenticationError, "rejected"),
    "disconnect, then no key": ([disconnect, problem(401, "unauthenticated")], AuthenticationError, "unknown"),
    "disconnect, then too large": ([disconnect, problem(413, "payload_too_large")], PayloadTooLargeError, "unknown"),
    "disconnect, then no customer": (
        [disconnect, problem(404, "customer_not_found")],
        CustomerNotFoundError,
        "rejected",
    ),
    "disconnect, then invalid": ([disconnect, problem(400, "validation_error")], ValidationError, "rejected"),
    "disconnect, then a duplicate": (
        [disconnect, problem(409, "duplicate_record", existing=STORED)],
        DuplicateRecordError,
        "rejected",
    ),
    "disconnect, then a conflict": (
        [disconnect, problem(422, "event_id_conflict", existing=STORED)],
        EventIdConflictError,
        "rejected",
    ),
    "disconnect, then a proxy's 404": ([disconnect, answer(404, b"no route")], NotFoundError, "unknown"),
    "disconnect, then a proxy's 400": ([disconnect, answer(400, b"bad")], UnexpectedResponseError, "unknown"),
    "a proxy's 404": ([answer(404, b"no route")], NotFoundError, "rejected"),
    "failed": ([problem(500, "internal_error")], UnexpectedResponseError, "unknown"),
    "redirected": ([answer(302, Location="/elsewhere")], UnexpectedResponseError, "unknown"),
}


@pytest.mark.parametrize(("script", "expected", "outcome"), OUTCOMES.values(), ids=OUTCOMES.keys())
async def test_the_outcome_is_no_surer_than_what_was_seen(
    script: list[Step], expected: type[BillingError], outcome: str
) -> None:
    error = await error_of(*script)
    assert type(error) is expected
    assert error.outcome == outcome


async def test_a_call_that_was_only_ever_refused_is_rejected_when_the_deadline_passes() -> None:
    error = await error_of(problem(429, "rate_limited"), timeout=1, max_attempts=1_000)
    assert type(error) is DeadlineExceededError
    assert error.outcome == "rejected"


async def test_a_call_that_was_refused_and_then_not_answered_is_unknown() -> None:
    error = await error_of(problem(429, "rate_limited"), silent, timeout=0.5)
    assert type(error) is DeadlineExceededError
    assert (error.outcome, error.attempts) == ("unknown", 2)


@pytest.mark.parametrize(
    ("script", "expected", "outcome"),
    [
        ([problem(404, "customer_not_found")], CustomerNotFoundError, "rejected"),
        ([problem(401, "unauthenticated")], AuthenticationError, "rejected"),
        ([problem(500, "internal_error")], UnexpectedResponseError, "unknown"),
        ([problem(503, "unavailable")], UnavailableError, "unknown"),
        ([answer(302, Location="/elsewhere")], UnexpectedResponseError, "unknown"),
        ([disconnect], TransportError, "unknown"),
        ([refuse_after(disconnect)], TransportError, "unknown"),
        ([silent], DeadlineExceededError, "unknown"),
    ],
)
async def test_the_outcome_of_a_read_is_no_surer_than_what_was_seen(
    script: list[Step], expected: type[BillingError], outcome: str
) -> None:
    async with misbehaving(*script) as server, client_of(server, max_attempts=2, timeout=0.5) as client:
        with pytest.raises(BillingError) as caught:
            await client.get_customer(customer_id="acme")
    assert (type(caught.value), caught.value.outcome) == (expected, outcome)
    assert (caught.value.idempotency_key, caught.value.request_id) == (None, None)


async def test_an_error_survives_being_copied_and_sent_to_another_process() -> None:
    errors = [await error_of(problem(status, code, **members)) for status, code, members, _ in OF_PROBLEMS]
    errors += [await error_of(disconnect), ConfigurationError("bad")]
    async with misbehaving(recorded()) as server, client_of(server) as client:
        with pytest.raises(ValidationError) as caught:
            await client.record_usage(**{**USAGE, "service": ""})
    for error in [*errors, caught.value]:
        for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert vars(twin) == vars(error)


def drawn_hierarchy() -> dict[str, str]:
    """Each class of the drawing, and the class it hangs from."""
    parents: dict[str, str] = {}
    above: list[str] = []
    assert _errors.__doc__
    for branch, name in re.findall(r"^((?:[│ ]   )*(?:[├└]── )?)(\w+Error)\b", _errors.__doc__, re.MULTILINE):
        above[len(branch) // 4 :] = [name]
        parents[name] = above[-2] if len(above) > 1 else ""
    return parents


def test_the_hierarchy_is_the_one_drawn() -> None:
    classes = {
        name: kind for name, kind in vars(_errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {name: kind.__bases__[0].__name__ for name, kind in classes.items()} == {
        name: parent or "Exception" for name, parent in drawn_hierarchy().items()
    }
    assert issubclass(ConfigurationError, ValueError)
    assert set(classes) <= set(billing_client.__all__)


def test_each_status_drawn_is_the_one_that_raises_the_error() -> None:
    assert _errors.__doc__
    drawn = {
        (int(status), name)
        for name, statuses in re.findall(r"(\w+Error) +(\d{3}(?:, \d{3})*)", _errors.__doc__)
        for status in statuses.split(", ")
    }
    raised = {
        (status, expected.__name__) for status, _, _, expected in OF_PROBLEMS if issubclass(expected, ResponseError)
    }
    assert drawn <= raised
