"""Many uses at once, against a server that misbehaves: how batches are made, sent and given up."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from billing_client import AuthenticationError, BillingSystemClient, UnexpectedResponseError, Usage, ValidationError
from tests.client.answers import STORED, client_of, json_answer, problem, record_all, usage
from tests.client.misbehaving import (
    Connection,
    MisbehavingServer,
    Request,
    Step,
    disconnect,
    misbehaving,
    raw,
    silent,
)

MIB = 1024 * 1024


class Source:
    """Uses without end; `taken` counts those that were asked for."""

    def __init__(self, failing_at: int | None = None) -> None:
        self.taken = 0
        self._failing_at = failing_at

    def __iter__(self) -> Iterator[Usage]:
        for number in itertools.count(1):
            if number == self._failing_at:
                raise LookupError("the source is broken")
            self.taken = number
            yield usage(number)


def event_ids(request: Request) -> list[str]:
    return [record["eventId"] for record in json.loads(request.body)["records"]]


async def foreign_tasks(server: MisbehavingServer) -> set["asyncio.Task[Any]"]:
    """The tasks of this loop that are neither this test nor the server."""
    await asyncio.sleep(0)  # what a dropped generator leaves to the loop becomes a task only now
    return {*asyncio.all_tasks()} - server.tasks() - {asyncio.current_task()}


async def test_uses_are_sent_in_batches_of_the_given_size() -> None:
    async with misbehaving(record_all) as server, client_of(server) as client:
        outcomes = [o async for o in client.record_usages([usage(n) for n in range(7)], batch_size=3)]
    assert [outcome.usage.event_id for outcome in outcomes] == [f"event-{n}" for n in range(7)]
    assert [len(event_ids(request)) for request in server.requests] == [3, 3, 1]
    assert {(request.method, request.target) for request in server.requests} == {("POST", "/usage/batch")}
    assert len({request.header("Idempotency-Key") for request in server.requests}) == 3


async def test_a_batch_holds_at_most_four_mebibytes() -> None:
    uses = [usage(n, customer_id="😀" * 128, service="日" * 200) for n in range(5_000)]
    async with misbehaving(record_all) as server, client_of(server) as client:
        outcomes = [outcome async for outcome in client.record_usages(uses, batch_size=10_000)]
    assert [outcome.usage for outcome in outcomes] == uses
    assert [event_id for request in server.requests for event_id in event_ids(request)] == [u.event_id for u in uses]
    sizes = [len(request.body) for request in server.requests]
    assert len(sizes) == 2
    assert sum(sizes) > 4 * MIB
    assert max(sizes) <= 4 * MIB + len('{"records":[]}') + len(uses)


async def test_a_dry_run_asks_for_one() -> None:
    recordable = json_answer(200, {"results": [{"outcome": "recordable", "record": STORED}]})
    async with misbehaving(recordable) as server, client_of(server) as client:
        assert [outcome async for outcome in client.record_usages([usage(1)], dry_run=True)]
    assert [request.target for request in server.requests] == ["/usage/batch?dryRun=true"]


async def test_no_uses_are_no_request() -> None:
    async with misbehaving(record_all) as server, client_of(server) as client:
        assert [outcome async for outcome in client.record_usages([])] == []
        (outcome,) = [o async for o in client.record_usages([usage(1, units_consumed="x")])]
    assert (outcome.outcome, type(outcome.error), outcome.record) == ("rejected", ValidationError, None)
    assert server.requests == []


async def test_invalid_uses_keep_their_place_and_are_not_sent() -> None:
    uses = [usage(n, service="" if n % 3 == 0 else "storage") for n in range(10)]
    async with misbehaving(record_all) as server, client_of(server) as client:
        outcomes = [outcome async for outcome in client.record_usages(uses, batch_size=4)]
    assert [outcome.usage for outcome in outcomes] == uses
    assert [outcome.outcome for outcome in outcomes] == ["rejected", "recorded", "recorded"] * 3 + ["rejected"]
    assert [event_id for request in server.requests for event_id in event_ids(request)] == [
        f"event-{n}" for n in range(10) if n % 3
    ]


@pytest.mark.parametrize(("batch_size", "concurrency"), [(10, 1), (10, 3), (1, 5)])
async def test_a_source_without_end_is_read_no_further_than_needed(batch_size: int, concurrency: int) -> None:
    source, given = Source(), 0
    async with misbehaving(record_all) as server, client_of(server) as client:
        async for _ in client.record_usages(source, batch_size=batch_size, concurrency=concurrency):
            given += 1
            assert source.taken - given <= batch_size * concurrency
            if given == 300:
                break
    assert source.taken <= 300 + batch_size * concurrency


async def test_a_full_batch_does_not_wait_for_the_next_use() -> None:
    outcomes: asyncio.Queue[str] = asyncio.Queue()

    async def one_at_a_time() -> AsyncIterator[Usage]:
        yield usage(1)
        assert await outcomes.get() == "recorded"
        yield usage(2)

    async with misbehaving(record_all) as server, client_of(server) as client, asyncio.timeout(3):
        async for outcome in client.record_usages(one_at_a_time(), batch_size=1):
            outcomes.put_nowait(outcome.outcome)
    assert [event_ids(request) for request in server.requests] == [["event-1"], ["event-2"]]


async def test_a_batch_is_sent_before_the_results_of_another_are_handed_out() -> None:
    """A caller may take long with each of them, and the service would have nothing to do."""
    sent: list[None] = []

    def note() -> dict[str, str]:
        sent.append(None)
        return {}

    async with (
        misbehaving(record_all) as server,
        client_of(server, trace_headers=note) as client,
        aclosing(client.record_usages(Source(), batch_size=1, concurrency=2)) as outcomes,
    ):
        await anext(outcomes)
        await asyncio.gather(*await foreign_tasks(server))  # the second batch is answered too
        assert len(sent) == 2
        await anext(outcomes)
        assert len(sent) == 3


async def test_batches_on_their_way_together_are_answered_in_order() -> None:
    async def answer_once_three_are_there(connection: Connection, request: Request) -> None:
        await connection.server.wait_for_requests(3)
        if event_ids(request) == ["event-0", "event-1"]:
            await asyncio.sleep(0.05)  # the first is answered last
        await record_all(connection, request)

    async with misbehaving(answer_once_three_are_there) as server, client_of(server) as client:
        given = client.record_usages([usage(n) for n in range(6)], batch_size=2, concurrency=3)
        assert [outcome.usage.event_id async for outcome in given] == [f"event-{n}" for n in range(6)]
    assert server.connections == 3


@pytest.mark.parametrize(
    "failing", [disconnect, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), problem(503, "x")]
)
async def test_a_batch_is_sent_again_as_it_was(failing: Step) -> None:
    async with misbehaving(failing, failing, record_all) as server, client_of(server) as client:
        outcomes = [outcome async for outcome in client.record_usages([usage(1), usage(2)])]
    assert [outcome.outcome for outcome in outcomes] == ["recorded", "recorded"]
    assert len(server.requests) == 3
    assert len({(r.target, r.header("Idempotency-Key"), r.body) for r in server.requests}) == 1


async def test_leaving_early_takes_back_what_is_under_way() -> None:
    async with misbehaving(record_all, silent) as server, client_of(server) as client:
        given = client.record_usages(Source(), batch_size=2, concurrency=3)
        assert (await anext(given)).outcome == "recorded"
        await server.wait_for_requests(3)
        async with asyncio.timeout(1):
            await given.aclose()
        assert await foreign_tasks(server) == set()
        with pytest.raises(StopAsyncIteration):
            await anext(given)


async def test_leaving_early_leaves_no_task_behind() -> None:
    async def source() -> AsyncGenerator[Usage, None]:
        for each in Source():
            yield each

    async with misbehaving(record_all) as server, client_of(server) as client, aclosing(source()) as uses:
        given = client.record_usages(uses, batch_size=2)
        assert (await anext(given)).outcome == "recorded"
        await given.aclose()
        assert await foreign_tasks(server) == set()


async def test_cancelling_takes_back_what_is_under_way() -> None:
    async def record(client: BillingSystemClient) -> None:
        async for _ in client.record_usages(Source(), batch_size=2, concurrency=3):
            raise AssertionError("nothing was answered")

    async with misbehaving(silent) as server, client_of(server) as client:
        task = asyncio.create_task(record(client))
        await server.wait_for_requests(3)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        await server.wait_until_alone()
        assert await foreign_tasks(server) == set()


async def test_what_stops_a_batch_stops_the_rest() -> None:
    async with misbehaving(record_all, problem(401, "unauthenticated"), silent) as server, client_of(server) as client:
        given = client.record_usages(Source(), batch_size=1, concurrency=3)
        assert (await anext(given)).outcome == "recorded"
        await server.wait_for_requests(3)
        with pytest.raises(AuthenticationError) as caught:
            await asyncio.wait_for(anext(given), timeout=1)
        assert await foreign_tasks(server) == set()
    assert caught.value.idempotency_key in {request.header("Idempotency-Key") for request in server.requests}


async def test_an_error_of_the_source_reaches_the_caller_after_the_outcomes_before_it() -> None:
    async with misbehaving(record_all) as server, client_of(server) as client:
        given = client.record_usages(Source(failing_at=6), batch_size=2)
        for number in range(1, 5):
            assert (await anext(given)).usage.event_id == f"event-{number}"
        with pytest.raises(LookupError, match="the source is broken"):
            await anext(given)
        assert await foreign_tasks(server) == set()


@pytest.mark.parametrize(("batch_size", "concurrency"), [(0, 1), (10_001, 1), (1, 0)])
async def test_sizes_out_of_range_are_refused(batch_size: int, concurrency: int) -> None:
    async with misbehaving(record_all) as server, client_of(server) as client:
        with pytest.raises(ValueError, match="batch_size must be 1 to 10000"):
            await anext(client.record_usages([usage(1)], batch_size=batch_size, concurrency=concurrency))
    assert server.requests == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"results": None},
        {"results": []},
        {"results": [{"outcome": "recorded", "record": STORED}] * 2},
        {"results": [{"outcome": "lost"}]},
        {"results": [{"outcome": "recorded", "record": {}}]},
        {"results": [{"outcome": "rejected"}]},
        {"results": [{"outcome": "duplicate", "record": STORED}]},
        {"results": [{"outcome": "recorded"}]},
        {"results": [{"outcome": "recorded", "record": STORED | {"requestId": "cd" * 32}}]},
        {"results": [{"outcome": "replayed", "record": STORED | {"requestId": "cd" * 32}}]},
    ],
)
async def test_results_that_say_less_than_they_must_are_an_error(body: object) -> None:
    async with misbehaving(json_answer(200, body)) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError) as caught:
            await anext(client.record_usages([usage(1)]))
    assert (caught.value.status, caught.value.outcome, caught.value.attempts) == (200, "unknown", 1)
    assert caught.value.idempotency_key == server.requests[0].header("Idempotency-Key")
