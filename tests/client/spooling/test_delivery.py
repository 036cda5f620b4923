"""From the spool to a service that misbehaves: nothing is given up, nothing counts twice."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_client import (
    AttemptEvent,
    AuthenticationError,
    BillingSystemClient,
    DeadEvent,
    DeliveredEvent,
    RecorderCounts,
    RecorderEvent,
    UnavailableError,
    UnexpectedResponseError,
    ValidationError,
)
from tests.client.answers import STORED, client_of, problem, problem_body, record_all, stored, usage
from tests.client.misbehaving import Connection, Request, Step, disconnect, misbehaving, raw, silent
from tests.client.recorders import Hook, duplicate, each, kept, passing_on, records_of, settle, status_of
from tests.services import Service

DELIVERED = RecorderCounts(recorded=1, delivered=1, duplicates=0, dead=0, pending=0)
CUT_OFF = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


@pytest.mark.parametrize("fault", [disconnect, CUT_OFF], ids=["no answer", "half an answer"])
async def test_what_was_stored_before_a_crash_is_replayed_after_it(
    service: Service, client: BillingSystemClient, customer_id: str, tmp_path: Path, fault: Step
) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    # the service stores it, its answer is lost, and the recorder ends before it hears more
    async with (
        misbehaving(passing_on(service.url, fault), silent) as server,
        client_of(server) as crashing,
        crashing.recorder(spool=spool, close_timeout=0) as recorder,
    ):
        await asyncio.gather(*(recorder.record(usage(number)) for number in range(3)))
        await server.wait_for_requests(2)
    assert status_of(spool).attempted == 3
    async with client.recorder(spool=spool, on_event=hook) as recorder:
        await settle(recorder)
    assert [event.record.outcome for event in hook.of(DeliveredEvent)] == ["replayed"] * 3
    assert recorder.counts == RecorderCounts(recorded=0, delivered=3, duplicates=0, dead=0, pending=0)
    assert [event.attempts for event in hook.of(DeliveredEvent)] == [2] * 3
    assert len([record async for record in client.usage(customer_id=customer_id)]) == 3


async def test_each_attempt_is_the_same_but_for_new_company(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1), usage(2))
    async with (
        misbehaving(problem(500, "internal_error"), record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool) as recorder,
    ):
        await recorder.record(usage(3))
        await settle(recorder)
    sent = [
        (request.header("Idempotency-Key"), record) for request in server.requests for record in records_of(request)
    ]
    for number in (1, 2, 3):
        seen = {json.dumps(each) for each in sent if each[1]["eventId"] == f"event-{number}"}
        assert len(seen) == 1
    assert len({key for key, _ in sent}) == 2


async def test_an_attempt_is_counted_on_disk_before_it_is_made(tmp_path: Path) -> None:
    spool, counts = tmp_path / "usage.db", []

    async def count(connection: Connection, request: Request) -> None:
        counts.append(status_of(spool).attempted)
        await record_all(connection, request)

    async with misbehaving(count) as server, client_of(server) as client, client.recorder(spool=spool) as recorder:
        await asyncio.gather(*(recorder.record(usage(number)) for number in range(3)))
        await settle(recorder)
    assert counts == [3]


OWN: dict[str, tuple[list[Step], dict[str, Any], str]] = {
    "stored by an attempt before": ([disconnect], {}, "delivered"),
    "stored by another call": ([disconnect], {"occurredAt": "2026-01-01T00:00:00Z"}, "duplicate"),
    "stored before it was ever sent": ([], {}, "duplicate"),
}


@pytest.mark.parametrize(("before", "existing", "expected"), OWN.values(), ids=OWN.keys())
async def test_a_duplicate_counts_as_delivered_only_where_it_is_this_very_record(
    before: list[Step], existing: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """As behind a proxy that takes the Idempotency-Key away."""
    hook = Hook()
    script = [*before, each(duplicate(**existing))]
    async with (
        misbehaving(*script) as server,
        client_of(server, max_attempts=1) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert hook.kinds == [expected]
    outcomes = [event.record.outcome for event in hook.events if not isinstance(event, AttemptEvent | DeadEvent)]
    assert outcomes == ["replayed" if expected == "delivered" else "duplicate"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (problem(401, "unauthenticated"), "AuthenticationError"),
        (problem(403, "forbidden"), "PermissionDeniedError"),
        (problem(404, "not_found"), "NotFoundError"),
        (problem(429, "rate_limited"), "RateLimitedError"),
        (problem(500, "internal_error"), "UnexpectedResponseError"),
        (problem(503, "unavailable"), "UnavailableError"),
        (raw(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), "UnexpectedResponseError"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "UnexpectedResponseError"),
        (disconnect, "TransportError"),
        (silent, "DeadlineExceededError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_fault_of_a_record_leaves_it_in_line(
    fault: Step, error: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook()
    async with (
        misbehaving(fault, fault, record_all) as server,
        client_of(server, timeout=0.3, max_attempts=1) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert recorder.counts == DELIVERED
    *failed, answered = hook.of(AttemptEvent)
    assert [type(event.error).__name__ for event in failed] == [error] * 2
    assert (answered.error, answered.attempts, hook.kinds) == (None, 3, ["delivered"])
    assert len([record for record in caplog.records if "sent again in" in record.message]) == 2


async def test_the_wait_that_the_service_asks_for_is_kept(tmp_path: Path) -> None:
    hook = Hook()
    busy = problem(503, "unavailable", retry_after="1")
    async with (
        misbehaving(busy, record_all) as server,
        client_of(server, timeout=0.3) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)  # a flush hurries, but not past what was asked for
    first, second = server.requests
    assert second.at - first.at >= 1
    event = hook.of(AttemptEvent)[0]
    assert isinstance(event.error, UnavailableError)
    assert event.wait >= event.error.retry_after == 1


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_flush_cuts_a_long_wait_short(is_waiting: bool, tmp_path: Path) -> None:
    hook, failed = Hook(), asyncio.Event()

    def tell(event: RecorderEvent) -> None:
        hook(event)
        failed.set()

    async with (
        misbehaving(problem(401, "unauthenticated"), record_all) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=tell, close_timeout=0) as recorder,
    ):
        recorder._delivery._longest_wait = 1e6  # as if it had failed for days
        await recorder.record(usage(1))
        if is_waiting:
            await failed.wait()
        await settle(recorder)
        assert recorder._delivery._longest_wait < 1
    assert isinstance(hook.of(AttemptEvent)[0].error, AuthenticationError)
    assert recorder.counts == DELIVERED


def too_large(records: int, then: Step) -> Step:
    """A service that takes no more than so many records at once."""

    async def step(connection: Connection, request: Request) -> None:
        refused = problem(413, "payload_too_large")
        await (refused if len(records_of(request)) > records else then)(connection, request)

    return step


async def test_a_batch_that_is_too_large_is_sent_in_parts(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, *(usage(number) for number in range(50)))
    async with (
        misbehaving(too_large(7, record_all)) as server,
        client_of(server) as client,
        client.recorder(spool=spool) as recorder,
    ):
        await settle(recorder)
    assert recorder.counts.delivered == 50
    assert len({request.header("Idempotency-Key") for request in server.requests}) == 1


@pytest.mark.parametrize(("status", "code"), [(413, "payload_too_large"), (400, "validation_error")])
async def test_a_record_that_is_refused_alone_is_a_dead_letter(status: int, code: str, tmp_path: Path) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    refused = problem(status, code)

    async def step(connection: Connection, request: Request) -> None:
        is_bad = any(record["eventId"] == "event-5" for record in records_of(request))
        await (refused if is_bad else record_all)(connection, request)

    await kept(spool, *(usage(number) for number in range(9)))
    async with (
        misbehaving(step) as server,
        client_of(server) as client,
        client.recorder(spool=spool, on_event=hook) as recorder,
    ):
        await settle(recorder)
        (letter,) = await recorder.dead_letters()
    assert recorder.counts == RecorderCounts(recorded=0, delivered=8, duplicates=0, dead=1, pending=0)
    assert letter.usage is not None
    assert (letter.usage.event_id, letter.problem.status, letter.problem.code) == ("event-5", status, code)
    assert [event.usage and event.usage.event_id for event in hook.of(DeadEvent)] == ["event-5"]


async def test_a_record_that_makes_the_service_fail_holds_up_no_other(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"

    async def step(connection: Connection, request: Request) -> None:
        is_bad = any(record["eventId"] == "event-2" for record in records_of(request))
        await (problem(500, "internal_error") if is_bad else record_all)(connection, request)

    await kept(spool, *(usage(number) for number in range(6)))
    async with (
        misbehaving(step) as server,
        client_of(server) as client,
        client.recorder(spool=spool, close_timeout=0) as recorder,
        asyncio.timeout(60),
    ):
        await recorder._delivery.wait_for(5)
    assert recorder.counts == RecorderCounts(recorded=0, delivered=5, duplicates=0, dead=0, pending=1)


def one_result(result: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: (
        {"outcome": "recorded", "record": stored(record)} if record["eventId"] != "event-1" else result
    )


KEPT: dict[str, dict[str, Any]] = {
    "busy": {"outcome": "rejected", "problem": problem_body(429, "rate_limited")},
    "away": {"outcome": "rejected", "problem": problem_body(503, "unavailable")},
    "only foretold": {"outcome": "recordable", "record": STORED},
}


@pytest.mark.parametrize("result", KEPT.values(), ids=KEPT.keys())
async def test_a_record_of_a_batch_that_is_not_settled_stays(result: dict[str, Any], tmp_path: Path) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    await kept(spool, usage(0), usage(1), usage(2))
    async with (
        misbehaving(each(one_result(result)), record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool, on_event=hook) as recorder,
    ):
        await settle(recorder)
    assert [[record["eventId"] for record in records_of(request)] for request in server.requests] == [
        ["event-0", "event-1", "event-2"],
        ["event-1"],
    ]
    assert recorder.counts.delivered == 3
    assert [event.error is None for event in hook.of(AttemptEvent)] == [True, False, True]


EARLY = problem_body(
    400, "validation_error", errors=[{"pointer": "/occurredAt", "message": "must be at most 5 minutes"}]
)


async def test_usage_of_the_future_waits_and_others_pass_it(tmp_path: Path) -> None:
    spool, hook, is_late = tmp_path / "usage.db", Hook(), False

    def result(record: dict[str, Any]) -> dict[str, Any]:
        if record["eventId"] == "event-1" and not is_late:
            return {"outcome": "rejected", "problem": EARLY}
        return {"outcome": "recorded", "record": stored(record)}

    await kept(spool, usage(0), usage(1), usage(2))
    async with (
        misbehaving(each(result)) as server,
        client_of(server) as client,
        client.recorder(spool=spool, on_event=hook) as recorder,
        asyncio.timeout(60),
    ):
        await recorder._delivery.wait_for(2)
        await recorder.record(usage(3))
        await recorder._delivery.wait_for(3)
        assert (recorder.counts.pending, recorder.counts.dead, status_of(spool).pending) == (1, 0, 1)
        is_late = True
        await settle(recorder)
    assert recorder.counts.delivered == 4
    assert [event.usage.event_id for event in hook.of(DeliveredEvent)][-1] == "event-1"
    assert any(isinstance(event.error, ValidationError) for event in hook.of(AttemptEvent))


async def test_usage_with_another_fault_besides_its_time_is_refused(tmp_path: Path) -> None:
    errors = [*EARLY["errors"], {"pointer": "/service", "message": "is too long"}]
    refused = {"outcome": "rejected", "problem": EARLY | {"errors": errors}}
    async with (
        misbehaving(each(lambda _: refused)) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db") as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert recorder.counts.dead == 1


async def test_usage_of_the_future_is_kept_by_the_real_service_too(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    async with client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        await recorder.record(usage(1, occurred_at=now + timedelta(minutes=5, seconds=3)))
        await recorder.record(usage(2, occurred_at=now))
        await recorder._delivery.wait_for(1)
        assert (recorder.counts.delivered, recorder.counts.pending) == (1, 1)
        await settle(recorder)
    assert recorder.counts.delivered == 2
    assert [record.event_id async for record in client.usage(customer_id=customer_id)] == ["event-2", "event-1"]


async def test_records_that_went_last_are_buried_apart(tmp_path: Path) -> None:
    odd, refused = (
        each(lambda record: {"outcome": "recordable", "record": stored(record)}),
        problem(400, "validation_error"),
    )
    async with (
        misbehaving(odd, refused, odd, refused, refused) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db") as recorder,
    ):
        for number in range(3):
            await recorder.record(usage(number))
            await settle(recorder)
        letters = await recorder.dead_letters()
    assert [letter.usage and letter.usage.event_id for letter in letters] == ["event-0", "event-1", "event-2"]


async def test_a_refusal_of_one_record_is_that_records_alone(tmp_path: Path) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    refused = {"outcome": "rejected", "problem": problem_body(403, "forbidden")}
    await kept(spool, usage(0), usage(1), usage(2))
    async with (
        misbehaving(each(one_result(refused))) as server,
        client_of(server) as client,
        client.recorder(spool=spool, on_event=hook) as recorder,
    ):
        await settle(recorder)
    assert hook.kinds == ["delivered", "dead", "delivered"]
    assert len(server.requests) == 1


OTHER: dict[str, dict[str, Any]] = {
    "recorded": {"outcome": "recorded", "record": STORED | {"requestId": "cd" * 32}},
    "replayed": {"outcome": "replayed", "record": STORED | {"requestId": "cd" * 32}},
    "duplicate": {
        "outcome": "duplicate",
        "problem": problem_body(409, "duplicate_record", existing=STORED | {"requestId": "cd" * 32}),
    },
    "rejected": {"outcome": "rejected", "problem": problem_body(404, "customer_not_found", requestId="cd" * 32)},
}


@pytest.mark.parametrize("result", OTHER.values(), ids=OTHER.keys())
async def test_a_result_for_another_record_settles_nothing(result: dict[str, Any], tmp_path: Path) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    await kept(spool, usage(0), usage(1))
    async with (
        misbehaving(each(one_result(result)), record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool, on_event=hook) as recorder,
    ):
        await settle(recorder)
    sent = [record["eventId"] for request in server.requests for record in records_of(request)]
    assert sent == ["event-0", "event-1", "event-0", "event-1"]
    assert recorder.counts.delivered == 2
    assert isinstance(hook.of(AttemptEvent)[0].error, UnexpectedResponseError)


async def test_an_error_of_the_hook_goes_no_further(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: RecorderEvent) -> None:
        raise LookupError(event.kind)

    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=fail) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert recorder.counts == DELIVERED
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info[0] for record in failures if record.exc_info] == [LookupError] * 2


async def test_a_closed_client_delivers_nothing_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", close_timeout=0.1) as recorder,
    ):
        await client.close()
        await recorder.record(usage(1))
    assert recorder.counts.pending == status_of(tmp_path / "usage.db").pending == 1
    assert "nothing is delivered for now" in caplog.text
    assert server.requests == []


async def test_an_unexpected_answer_of_one_record_is_told_as_such(tmp_path: Path) -> None:
    hook = Hook()
    async with (
        misbehaving(each(one_result(KEPT["only foretold"])), record_all) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    error = hook.of(AttemptEvent)[1].error
    assert isinstance(error, UnexpectedResponseError)
    assert "recordable" in error.detail


async def test_a_batch_that_was_read_ahead_waits_for_the_one_that_failed(tmp_path: Path) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    await kept(spool, *(usage(number) for number in range(30)), batch_size=10)
    async with (
        misbehaving(record_all, problem(503, "unavailable"), record_all) as server,
        client_of(server, max_attempts=1) as client,
        client.recorder(spool=spool, on_event=hook, batch_size=10) as recorder,
    ):
        await settle(recorder)
    sent = [[record["eventId"] for record in records_of(request)] for request in server.requests]
    assert sent[1] == [f"event-{number}" for number in range(10, 20)]
    assert [event for batch in sent[2:] for event in batch] == [f"event-{number}" for number in range(10, 30)]
    # The first ten may have been sent while they were recorded; nothing else was sent more often than it was counted.
    assert [event.attempts for event in hook.of(DeliveredEvent)][10:] == [2] * 10 + [1] * 10
