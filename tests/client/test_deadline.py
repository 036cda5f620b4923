"""The one deadline over a call, and cancelling: prompt, clean, and never taken for one another."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from billing_client import (
    BillingSystemClient,
    DeadlineExceededError,
    RateLimitedError,
    TransportError,
    UnavailableError,
    UsageRecord,
)
from tests.client.answers import USAGE, client_of, problem, recorded
from tests.client.misbehaving import MisbehavingServer, Step, disconnect, misbehaving, silent

BUSY = problem(503, "unavailable", retry_after="5")


@pytest.fixture
def unreachable_url() -> Iterator[str]:
    """The URL of a host that answers no attempt to connect: its queue is full, and nobody serves it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for each in waiting:
            each.close()


def tasks_of_the_client(server: MisbehavingServer) -> set["asyncio.Task[Any]"]:
    return {*asyncio.all_tasks()} - server.tasks() - {asyncio.current_task()}


async def failing(call: Awaitable[object], expected: type[Exception] = DeadlineExceededError) -> Any:
    with pytest.raises(expected) as caught:
        await call
    assert type(caught.value) is expected
    return caught.value


async def test_the_deadline_ends_a_call_that_is_not_answered() -> None:
    async with misbehaving(silent) as server, client_of(server, timeout=0.2) as client:
        start = time.monotonic()
        error = await failing(client.record_usage(**USAGE, idempotency_key="call-1"))
        assert 0.2 <= time.monotonic() - start < 2
        assert (error.outcome, error.attempts, error.status) == ("unknown", 1, None)
        assert error.idempotency_key == "call-1"
        assert "0.2 s" in str(error)
        await server.wait_until_alone()


async def test_the_deadline_is_over_all_attempts_and_the_waits_between_them() -> None:
    busy = problem(503, "unavailable")
    async with misbehaving(busy) as server, client_of(server, timeout=0.5, max_attempts=1_000) as client:
        start = time.monotonic()
        error = await failing(client.record_usage(**USAGE))
        assert 0.5 <= time.monotonic() - start < 2
    assert error.attempts == len(server.requests) > 1
    assert error.outcome == "unknown"
    assert "What is wrong." in error.detail
    assert isinstance(error.__cause__, UnavailableError)


async def test_the_deadline_is_over_the_wait_for_a_connection_too() -> None:
    async with misbehaving(silent) as server, client_of(server, timeout=0.3, max_connections=1) as client:
        first = asyncio.create_task(client.record_usage(**USAGE))
        await server.wait_for_requests(1)
        # both deadlines pass while the loop is held up, so that the second call never gets the connection
        asyncio.get_running_loop().call_later(0.2, time.sleep, 0.3)
        error, error_of_first = await failing(client.record_usage(**USAGE)), await failing(first)
    assert (error_of_first.outcome, error_of_first.attempts) == ("unknown", 1)
    assert (error.outcome, error.attempts) == ("not_sent", 1)
    assert len(server.requests) == 1


async def test_a_host_that_cannot_be_reached_was_sent_nothing(unreachable_url: str) -> None:
    async with BillingSystemClient(base_url=unreachable_url, timeout=0.3) as client:
        error = await failing(client.record_usage(**USAGE))
    assert (error.outcome, error.attempts) == ("not_sent", 1)


async def test_a_host_that_refuses_connections_was_sent_nothing() -> None:
    async with misbehaving(silent) as server:
        server.stop_listening()
        async with client_of(server, timeout=0.4, max_attempts=1_000) as client:
            error = await failing(client.record_usage(**USAGE))
    assert error.outcome == "not_sent"
    assert error.attempts > 1
    assert type(error.__cause__) is TransportError


async def test_an_attempt_that_hangs_is_given_up_and_made_again(unreachable_url: str) -> None:
    """The one slow test: an answer is awaited for 15 s, a connection for 5 s."""
    async with misbehaving(silent, recorded(Idempotent_Replayed="true")) as server:
        reading = client_of(server, timeout=60)
        connecting = client_of(server, base_url=unreachable_url, timeout=60, max_attempts=2)
        async with reading, connecting:
            record, error = await asyncio.gather(
                reading.record_usage(**USAGE), connecting.record_usage(**USAGE), return_exceptions=True
            )
    assert not isinstance(record, BaseException)
    assert record.outcome == "replayed"
    assert len({(request.header("Idempotency-Key"), request.body) for request in server.requests}) == 1
    assert isinstance(error, TransportError)
    assert (type(error), error.outcome, error.attempts) == (TransportError, "not_sent", 2)


async def wait_for_the_answer(server: MisbehavingServer) -> None:
    await server.wait_for_requests(1)


async def wait_for_the_back_off(server: MisbehavingServer) -> None:
    await server.wait_for_requests(1)
    await asyncio.sleep(0.05)


STAGES: dict[str, tuple[Step, Callable[[MisbehavingServer], Awaitable[None]]]] = {
    "answer": (silent, wait_for_the_answer),
    "back-off": (BUSY, wait_for_the_back_off),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelling_is_prompt_and_leaves_nothing_behind(stage: str) -> None:
    step, reached = STAGES[stage]
    async with misbehaving(step, recorded()) as server, client_of(server, max_connections=1) as client:
        task = asyncio.create_task(client.record_usage(**USAGE))
        await reached(server)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        assert tasks_of_the_client(server) == set()
        if stage == "answer":
            await server.wait_until_alone()
        assert (await client.record_usage(**USAGE)).outcome == "recorded"  # and the connection's place is free
    assert len(server.requests) == 2


async def test_cancelling_a_wait_for_a_connection_leaves_the_others_alone() -> None:
    async with misbehaving(silent, recorded()) as server, client_of(server, max_connections=1) as client:
        holding = asyncio.create_task(client.record_usage(**USAGE))
        await server.wait_for_requests(1)
        waiting = asyncio.create_task(client.record_usage(**USAGE))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=1)
        assert waiting.cancelled()
        assert not holding.done()
        holding.cancel()
        assert (await client.record_usage(**USAGE)).outcome == "recorded"
        assert holding.cancelled()


async def test_cancelling_an_attempt_to_connect_is_prompt(unreachable_url: str) -> None:
    async with BillingSystemClient(base_url=unreachable_url) as client:
        task = asyncio.create_task(client.record_usage(**USAGE))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("step", [silent, BUSY])
async def test_a_timeout_of_the_callers_own_stays_theirs(step: Step) -> None:
    async with misbehaving(step) as server, client_of(server) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.record_usage(**USAGE)
        assert type(caught.value) is TimeoutError
        assert tasks_of_the_client(server) == set()


async def test_a_task_group_ends_its_calls_with_the_task_that_fails() -> None:
    calls: list[asyncio.Task[UsageRecord]] = []

    async def record_and_fail(server: MisbehavingServer, client: BillingSystemClient) -> None:
        async with asyncio.TaskGroup() as group:
            calls.extend(group.create_task(client.record_usage(**USAGE)) for _ in range(2))
            await server.wait_for_requests(2)
            raise LookupError

    async with misbehaving(silent) as server, client_of(server) as client:
        with pytest.raises(ExceptionGroup) as caught:
            await record_and_fail(server, client)
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert [call.cancelled() for call in calls] == [True, True]
        await server.wait_until_alone()


@pytest.mark.parametrize("cancelled_after", [0.09, 0.1, 0.11])
async def test_cancelling_wins_over_a_deadline_that_passes_at_the_same_moment(cancelled_after: float) -> None:
    async with misbehaving(silent) as server, client_of(server, timeout=0.1) as client:
        task = asyncio.create_task(client.record_usage(**USAGE))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        loop.call_later(cancelled_after, task.cancel)
        loop.call_later(0.05, time.sleep, 0.15)  # the loop wakes up to find both due
        await asyncio.wait([task])
        assert task.cancelled()
        assert tasks_of_the_client(server) == set()


@pytest.mark.parametrize("timeout", [0.09, 0.1, 0.11])
async def test_a_timeout_of_the_callers_own_wins_over_a_deadline_of_the_same_moment(timeout: float) -> None:
    async with misbehaving(silent) as server, client_of(server, timeout=0.1) as client:
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.15)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(timeout):
                await client.record_usage(**USAGE)
        assert type(caught.value) is TimeoutError


@pytest.mark.parametrize(("status", "expected"), [(503, UnavailableError), (429, RateLimitedError)])
async def test_a_wait_beyond_the_deadline_is_not_begun(status: int, expected: type[Exception]) -> None:
    busy = problem(status, "busy", retry_after="60")
    async with misbehaving(busy) as server, client_of(server, timeout=30) as client:
        start = time.monotonic()
        error = await failing(client.record_usage(**USAGE), expected)
        assert time.monotonic() - start < 10
    assert error.attempts == len(server.requests) == 1


async def test_the_last_attempt_is_the_one_that_is_told_of() -> None:
    async with misbehaving(disconnect) as server, client_of(server, max_attempts=3) as client:
        error = await failing(client.record_usage(**USAGE), TransportError)
    assert error.attempts == len(server.requests) == 3
    assert error.outcome == "unknown"
