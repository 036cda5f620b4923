"""The recorder without a spool: the same, but for what a process loses when it ends."""

import pytest

from billing_client import BillingSystemClient, DeadEvent, DeliveredEvent, RecorderCounts, UsageRecorder
from tests.client.answers import usage
from tests.client.recorders import Hook, away, settle


async def test_usage_in_memory_is_delivered(client: BillingSystemClient, customer_id: str) -> None:
    hook = Hook()
    async with client.recorder(on_event=hook) as recorder:
        await recorder.record(usage(1))
        await recorder.record(usage(2, customer_id="nobody"))
        await settle(recorder)
        assert len(await recorder.dead_letters()) == await recorder.discard() == 1
    assert [event.record.customer_id for event in hook.of(DeliveredEvent)] == [customer_id]
    assert [event.usage and event.usage.customer_id for event in hook.of(DeadEvent)] == ["nobody"]


async def left(client: BillingSystemClient, records: int, close_timeout: float) -> UsageRecorder:
    """A recorder that was closed with what it could not deliver."""
    async with client.recorder(close_timeout=close_timeout) as recorder:
        for number in range(records):
            await recorder.record(usage(number))
        await recorder.flush(close_timeout)
    return recorder


async def test_what_cannot_be_delivered_is_said_on_exit() -> None:
    async with away() as client:
        with pytest.warns(ResourceWarning, match="3 records that were not delivered and 0 that were refused are lost"):
            recorder = await left(client, 3, 0)
    assert recorder.counts == RecorderCounts(recorded=3, delivered=0, duplicates=0, dead=0, pending=3)
    assert await recorder.close() == recorder.counts


async def test_dead_letters_are_said_on_exit_too(client: BillingSystemClient) -> None:
    with pytest.warns(ResourceWarning, match="0 records that were not delivered and 1 that were refused are lost"):
        await left(client, 1, 60)


async def test_two_recorders_in_memory_know_nothing_of_each_other() -> None:
    async with away() as client, client.recorder() as second:
        with pytest.warns(ResourceWarning):
            await left(client, 1, 0)
        assert (await second.status()).pending == 0
