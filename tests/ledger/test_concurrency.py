"""Concurrency: each usage is recorded once, however many callers report it at the same time."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from billing_service.settings import Settings
from tests.calls import Answer, given_customer, key, post, stored, usage
from tests.services import running_service, serve_process

CALLS = 200


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """HTTP clients of two services on one database."""
    async with AsyncExitStack() as stack:
        yield [await open_client(stack, stack.enter_context(running_service(settings)).url) for _ in range(2)]


async def open_client(stack: AsyncExitStack, url: str) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return await stack.enter_async_context(aiohttp.ClientSession(url, connector=connector))


def assert_recorded_once(answers: list[Answer]) -> None:
    """One call recorded the usage, and all the others were told of that record."""
    recorded = [answer for answer in answers if answer.status == 201]
    assert len(recorded) == 1
    assert not recorded[0].replayed
    existing = [answer.problem("duplicate_record")["existing"] for answer in answers if answer is not recorded[0]]
    assert existing == [recorded[0].body] * (len(answers) - 1)


@pytest.mark.parametrize("event", [None, "event"])
async def test_of_identical_calls_one_records(http: aiohttp.ClientSession, event: str | None) -> None:
    await given_customer(http)
    report = usage(eventId=event)
    answers = await asyncio.gather(*(post(http, "/usage", report, key(f"call {n}")) for n in range(CALLS)))
    assert_recorded_once(answers)
    assert len(await stored(http, "acme")) == 1


async def test_of_identical_calls_to_two_services_one_records(two: list[aiohttp.ClientSession]) -> None:
    await given_customer(two[0])
    for round_ in range(3):
        report = usage(eventId=f"round {round_}")
        answers = await asyncio.gather(*(post(two[n % 2], "/usage", report) for n in range(CALLS)))
        assert_recorded_once(answers)
    assert len(await stored(two[1], "acme")) == 3


async def test_of_identical_calls_to_two_processes_one_records(tmp_path: Path, database_url: str) -> None:
    async with AsyncExitStack() as stack:
        served = [stack.enter_context(serve_process(tmp_path / str(n), database_url)) for n in range(2)]
        clients = [await open_client(stack, process.url) for process in served]
        await given_customer(clients[0])
        answers = await asyncio.gather(*(post(clients[n % 2], "/usage", usage()) for n in range(CALLS)))
        assert_recorded_once(answers)


async def test_of_one_call_sent_many_times_at_once_all_get_the_record(two: list[aiohttp.ClientSession]) -> None:
    await given_customer(two[0])
    answers = await asyncio.gather(*(post(two[n % 2], "/usage", usage(), key("a call")) for n in range(50)))
    assert [answer.require(201) for answer in answers] == [answers[0].body] * 50
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 49


async def test_of_different_usage_under_one_event_id_one_is_recorded(two: list[aiohttp.ClientSession]) -> None:
    await given_customer(two[0])
    reports = [usage(eventId="1", unitsConsumed=str(n)) for n in range(50)]
    answers = await asyncio.gather(*(post(two[n % 2], "/usage", report) for n, report in enumerate(reports)))
    recorded = [answer for answer in answers if answer.status == 201]
    assert len(recorded) == 1
    for answer in answers:
        if answer is not recorded[0]:
            problem = answer.problem("event_id_conflict")
            assert problem["existing"] == recorded[0].body
            assert [conflict["field"] for conflict in problem["conflicts"]] == ["unitsConsumed"]
    assert await stored(two[0], "acme") == [recorded[0].body]


async def test_different_usage_at_once_is_all_recorded(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    answers = await asyncio.gather(*(post(http, "/usage", usage(eventId=str(n))) for n in range(CALLS)))
    assert {answer.require(201)["eventId"] for answer in answers} == {str(n) for n in range(CALLS)}
    assert len(await stored(http, "acme")) == CALLS


async def test_identical_calls_and_batches_at_once_record_once(two: list[aiohttp.ClientSession]) -> None:
    await given_customer(two[0])
    calls = [post(two[n % 2], "/usage", usage(), key(f"call {n}")) for n in range(20)]
    batches = [post(two[n % 2], "/usage/batch", {"records": [usage()] * 20}, key(f"batch {n}")) for n in range(20)]
    answers = await asyncio.gather(*calls, *batches)
    record = (await stored(two[0], "acme"))[0]
    outcomes: Counter[str] = Counter()
    for answer in answers[:20]:
        outcomes["recorded" if answer.status == 201 else "duplicate"] += 1
        assert (answer.body if answer.status == 201 else answer.problem("duplicate_record")["existing"]) == record
    for answer in answers[20:]:
        for result in answer.require(200)["results"]:
            outcomes[result["outcome"]] += 1
            assert (result.get("record") or result["problem"]["existing"]) == record
    assert outcomes == {"recorded": 1, "duplicate": 20 + 20 * 20 - 1}
    assert len(await stored(two[0], "acme")) == 1


async def test_overlapping_batches_in_opposite_order_do_not_wait_for_each_other_in_a_circle(
    two: list[aiohttp.ClientSession],
) -> None:
    customers = [f"customer-{n}" for n in range(5)]
    for customer in customers:
        await given_customer(two[0], customer)
    records = [usage(customerId=customer, eventId=str(n)) for n in range(200) for customer in customers]
    orders = [records, records[::-1]] + [random.sample(records, len(records)) for _ in range(6)]
    answers = await asyncio.gather(
        *(post(two[n % 2], "/usage/batch", {"records": order}, key(f"{n}")) for n, order in enumerate(orders))
    )
    recorded: list[Any] = []
    for order, answer in zip(orders, answers, strict=True):
        results = answer.require(200)["results"]
        assert {result["outcome"] for result in results} <= {"recorded", "duplicate"}
        recorded += [
            (record["customerId"], record["eventId"])
            for record, result in zip(order, results, strict=True)
            if result["outcome"] == "recorded"
        ]
    assert sorted(recorded) == sorted((record["customerId"], record["eventId"]) for record in records)
    assert [len(await stored(two[1], customer)) for customer in customers] == [200] * 5
