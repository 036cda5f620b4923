"""Usage that the service refuses for a reason that may pass: it waits, within bounds, and holds up no other."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_client import AttemptEvent, BillingSystemClient, DeadEvent, DeliveredEvent
from tests.client.answers import client_of, problem, problem_body, record_all, stored, usage
from tests.client.misbehaving import Connection, Request, answer, misbehaving
from tests.client.recorders import Hook, each, hurried, kept, records_of, settle

EARLY = {
    "outcome": "rejected",
    "problem": problem_body(400, "validation_error", errors=[{"pointer": "/occurredAt", "message": "is ahead"}]),
}
UNKNOWN = {"outcome": "rejected", "problem": problem_body(404, "customer_not_found")}


async def test_usage_of_an_unknown_customer_waits_until_there_is_one_and_others_pass_it(
    client: BillingSystemClient, customer_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook()
    async with hurried(
        client.recorder(spool=tmp_path / "usage.db", unknown_customer="wait", on_event=hook)
    ) as recorder:
        await recorder.record(usage(1, customer_id="later"))
        await recorder.record(usage(2))
        await recorder._delivery.wait_for(1)
        assert (recorder.counts.delivered, recorder.counts.pending, recorder.counts.dead) == (1, 1, 0)
        await client.create_customer(name="Later", customer_id="later")
        await settle(recorder)
    assert [event.usage.customer_id for event in hook.of(DeliveredEvent)] == [customer_id, "later"]
    assert "1 records of customers that the service does not know are sent again" in caplog.text


async def test_unknown_customers_are_created_if_told_so(client: BillingSystemClient, tmp_path: Path) -> None:
    async with hurried(client.recorder(spool=tmp_path / "usage.db", unknown_customer="create")) as recorder:
        await recorder.record_many([usage(n, customer_id=f"new-{n % 2}") for n in range(4)])
        await settle(recorder)
    assert (recorder.counts.delivered, recorder.counts.dead) == (4, 0)
    created = [customer async for customer in client.customers()]
    assert {(customer.id, customer.name) for customer in created} == {("new-0", "new-0"), ("new-1", "new-1")}


@pytest.mark.parametrize("creation", [problem(403, "forbidden"), answer(201, b"{}")], ids=["refused", "no help"])
async def test_a_customer_that_cannot_be_created_is_asked_for_once_in_a_while(
    creation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def step(connection: Connection, request: Request) -> None:
        is_batch = request.target == "/usage/batch"
        batches = [each for each in server.requests if each.target == "/usage/batch"]
        known = each(lambda _: UNKNOWN) if len(batches) < 3 else record_all
        await (known if is_batch else creation)(connection, request)

    hook = Hook()
    async with (
        misbehaving(step) as server,
        client_of(server) as client,
        hurried(client.recorder(spool=tmp_path / "usage.db", unknown_customer="create", on_event=hook)) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert recorder.counts.delivered == 1
    waits = [event.wait for event in hook.of(AttemptEvent) if event.error is not None]
    assert waits
    assert all(wait > 0 for wait in waits)
    assert len(server.requests) < 8


@pytest.mark.parametrize(("option", "result"), [("wait", UNKNOWN), ("dead", EARLY)], ids=["unknown", "early"])
async def test_usage_waits_for_no_longer_than_told(option: Any, result: dict[str, Any], tmp_path: Path) -> None:
    hook = Hook()
    async with (
        misbehaving(each(lambda _: result)) as server,
        client_of(server) as client,
        hurried(
            client.recorder(spool=tmp_path / "usage.db", unknown_customer=option, defer_timeout=0.5, on_event=hook)
        ) as recorder,
    ):
        await recorder.record(usage(1))
        await settle(recorder)
    assert recorder.counts.dead == 1
    assert len(server.requests) > 1
    assert hook.of(DeadEvent)[0].error.code == result["problem"]["code"]


async def test_a_clock_that_is_set_right_makes_no_dead_letters(tmp_path: Path) -> None:
    """The clock was 40 days slow when the usage was recorded; or the service was away for as long."""
    spool, answers, slow = tmp_path / "usage.db", [UNKNOWN, UNKNOWN], datetime.now(UTC) - timedelta(days=40)
    await kept(spool, usage(1, occurred_at=slow))
    with closing(sqlite3.connect(spool)) as file, file:
        file.execute("UPDATE pending SET recorded_at = ?", (str(slow),))
    async with (
        misbehaving(
            each(lambda record: answers.pop() if answers else {"outcome": "recorded", "record": stored(record)})
        ) as server,
        client_of(server) as client,
        hurried(client.recorder(spool=spool, unknown_customer="wait")) as recorder,
    ):
        await settle(recorder)
    assert (recorder.counts.delivered, recorder.counts.dead, len(server.requests)) == (1, 0, 3)


async def test_usage_of_the_year_2999_is_a_dead_letter_at_once(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    hook = Hook()
    soon = datetime.now(UTC) + timedelta(hours=1)
    async with hurried(client.recorder(spool=tmp_path / "usage.db", on_event=hook, close_timeout=0)) as recorder:
        await recorder.record(usage(1, occurred_at=datetime(2999, 1, 1, tzinfo=UTC)))
        await recorder.record(usage(2, occurred_at=soon))
        await recorder.record(usage(3))
        await recorder._delivery.wait_for(2)
        (letter,) = await recorder.dead_letters()
    assert letter.usage is not None
    assert letter.usage.event_id == "event-1"
    assert (hook.kinds, recorder.counts.pending) == (["dead", "delivered"], 1)


async def test_an_unknown_customer_is_a_dead_letter_by_default(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    async with hurried(client.recorder(spool=tmp_path / "usage.db")) as recorder:
        await recorder.record(usage(1, customer_id="nobody"))
        await settle(recorder)
    assert recorder.counts.dead == 1


async def test_what_comes_slowly_is_gathered_in_few_batches(tmp_path: Path) -> None:
    uses = 60
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool=tmp_path / "usage.db", linger=60, batch_size=25)) as recorder,
    ):
        for number in range(uses):
            await recorder.record(usage(number))
        await server.wait_for_requests(2)  # those that are full are sent at once
        await settle(recorder)  # and a flush waits for none
    assert [len(records_of(request)) for request in server.requests] == [25, 25, 10]


async def test_what_is_alone_is_sent_after_it_lingered(tmp_path: Path) -> None:
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool=tmp_path / "usage.db", linger=0.05)) as recorder,
    ):
        for number in range(2):
            await recorder.record(usage(number))
            await server.wait_for_requests(number + 1)
