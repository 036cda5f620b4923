"""The recorder on the real service: what it takes is safe at once, and stored once."""

import asyncio
import itertools
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_client import (
    BillingSystemClient,
    ConfigurationError,
    DeadEvent,
    DeliveredEvent,
    DuplicateEvent,
    EventIdConflictError,
    RecorderCounts,
    Usage,
    UsageRecord,
    ValidationError,
)
from billing_client.contract.identity import event_request_id
from tests.client.answers import usage
from tests.client.recorders import Hook, away, in_spool_thread, kept, settle, status_of


async def stored(client: BillingSystemClient, customer_id: str) -> list[UsageRecord]:
    return [record async for record in client.usage(customer_id=customer_id)]


async def test_what_is_recorded_is_stored(client: BillingSystemClient, customer_id: str, tmp_path: Path) -> None:
    occurred_at = datetime(2026, 1, 1, tzinfo=UTC)
    async with client.recorder(spool=tmp_path / "usage.db") as recorder:
        request_id = await recorder.record(
            customer_id=customer_id,
            service="storage",
            units_consumed=Decimal("1.50"),
            price_per_unit="0.02",
            event_id="event-1",
            occurred_at=occurred_at,
            dimensions={"region": "eu", "model": "large"},
        )
        await recorder.record(usage(2))
    assert recorder.counts == RecorderCounts(recorded=2, delivered=2, duplicates=0, dead=0, pending=0)
    first, second = await stored(client, customer_id)
    assert (first.request_id, first.occurred_at, first.amount) == (request_id, occurred_at, Decimal("0.03"))
    assert request_id == event_request_id(customer_id, "event-1")
    assert first.dimensions == {"model": "large", "region": "eu"}
    assert (second.event_id, second.dimensions) == ("event-2", {})


async def test_a_record_is_on_disk_before_it_is_delivered(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        for number in range(3):
            await recorder.record(usage(number))
            assert status_of(spool).pending == number + 1
        connection = recorder._outbox.file._connection
        pragmas = [
            await in_spool_thread(recorder, _pragma, connection, name) for name in ("journal_mode", "synchronous")
        ]
        assert pragmas == ["wal", 2]
    assert recorder.counts == RecorderCounts(recorded=3, delivered=0, duplicates=0, dead=0, pending=3)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


async def test_what_one_recorder_leaves_the_next_delivers(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    spool = tmp_path / "usage.db"
    before = datetime.now(UTC)
    await kept(spool, usage(1), usage(2))
    after = datetime.now(UTC)
    await asyncio.sleep(0.01)
    assert before <= (status_of(spool).oldest or after) <= after
    async with client.recorder(spool=spool) as recorder:
        await settle(recorder)
    assert recorder.counts == RecorderCounts(recorded=0, delivered=2, duplicates=0, dead=0, pending=0)
    assert status_of(spool).pending == 0
    records = await stored(client, customer_id)
    assert [record.event_id for record in records] == ["event-1", "event-2"]
    assert all(before <= record.occurred_at <= after for record in records)


async def test_calls_that_wait_together_share_a_transaction(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        await asyncio.gather(*(recorder.record(usage(number)) for number in range(500)))
    with sqlite3.connect(spool) as connection:
        (commits,) = connection.execute("SELECT count(DISTINCT recorded_at) FROM pending").fetchone()
        events = [row[0] for row in connection.execute("SELECT body ->> 'eventId' FROM pending ORDER BY seq")]
    connection.close()
    assert commits <= 5
    assert events == [f"event-{number}" for number in range(500)]


async def test_usage_is_delivered_in_batches_in_the_order_it_was_recorded(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    hook = Hook()
    await kept(tmp_path / "usage.db", *(usage(number) for number in range(25)), batch_size=10)
    async with client.recorder(spool=tmp_path / "usage.db", on_event=hook, batch_size=10) as recorder:
        await settle(recorder)
    assert [event.usage.event_id for event in hook.of(DeliveredEvent)] == [f"event-{n}" for n in range(25)]
    keys = [event.idempotency_key for event in hook.of(DeliveredEvent)]
    assert [len(list(group)) for _, group in itertools.groupby(keys)] == [10, 10, 5]
    assert len(await stored(client, customer_id)) == 25


async def test_each_event_says_what_became_of_a_use(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    hook = Hook()
    existing = await client.record_usage(**_fields(usage(1)))
    async with client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder:
        uses = [usage(1), usage(2), usage(1, units_consumed="9"), usage(3, customer_id="nobody")]
        await asyncio.gather(*(recorder.record(use) for use in uses))
        await settle(recorder)
        assert (await recorder.status()).dead == 2
    assert hook.kinds == ["duplicate", "delivered", "dead", "dead"]
    assert hook.of(DuplicateEvent)[0].record.recorded_at == existing.recorded_at
    delivered = hook.of(DeliveredEvent)[0]
    assert (delivered.usage.event_id, delivered.attempts, delivered.record.outcome) == ("event-2", 1, "recorded")
    conflict, unknown = (event.error for event in hook.of(DeadEvent))
    assert isinstance(conflict, EventIdConflictError)
    assert [change.field for change in conflict.conflicts] == ["unitsConsumed"]
    assert unknown.code == "customer_not_found"
    assert recorder.counts == RecorderCounts(recorded=4, delivered=1, duplicates=1, dead=2, pending=0)


def _fields(use: Usage) -> dict[str, Any]:
    return {name: getattr(use, name) for name in use.__struct_fields__}


@pytest.mark.parametrize("together", [True, False])
async def test_equal_usage_without_an_event_id_counts_once(
    client: BillingSystemClient,
    customer_id: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    together: bool,
) -> None:
    hook = Hook()
    async with client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder:
        if together:
            await asyncio.gather(*(recorder.record(usage(1, event_id=None)) for _ in range(2)))
        for _ in range(0 if together else 2):
            await recorder.record(usage(1, event_id=None))
            await settle(recorder)
        await settle(recorder)
    assert hook.kinds == ["delivered", "duplicate"]
    assert len(await stored(client, customer_id)) == 1
    assert "1 records without an event id add nothing" in caplog.text


async def test_a_call_repeated_under_its_own_key_is_one_call(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    hook = Hook()
    async with client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder:
        await asyncio.gather(*(recorder.record(usage(1), idempotency_key="message-1") for _ in range(2)))
    assert [event.record.outcome for event in hook.of(DeliveredEvent)] == ["recorded", "replayed"]
    assert {event.idempotency_key for event in hook.of(DeliveredEvent)} == {"message-1"}
    assert len(await stored(client, customer_id)) == 1


async def test_a_redriven_record_is_delivered_once_what_was_wrong_is_mended(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    hook = Hook()
    async with client.recorder(spool=tmp_path / "usage.db", on_event=hook) as recorder:
        request_id = await recorder.record(usage(1, customer_id="later"))
        await recorder.record(usage(2, customer_id="never"))
        await settle(recorder)
        letter = (await recorder.dead_letters())[0]
        assert letter.usage is not None
        assert (letter.usage.customer_id, letter.problem.code) == ("later", "customer_not_found")
        await client.create_customer(name="Later", customer_id="later")
        assert await recorder.redrive([request_id]) == 1
        await settle(recorder)
        assert [letter.usage and letter.usage.customer_id for letter in await recorder.dead_letters()] == ["never"]
        assert await recorder.discard() == 1
        assert (await recorder.status()).bytes == 0
    assert hook.kinds == ["dead", "dead", "delivered"]
    assert hook.of(DeliveredEvent)[0].idempotency_key == letter.idempotency_key
    assert hook.of(DeliveredEvent)[0].record.occurred_at == letter.usage.occurred_at


async def test_invalid_usage_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        with pytest.raises(ValidationError, match="/service"):
            await recorder.record(usage(1, service=""))
        with pytest.raises(ValidationError, match="Idempotency-Key"):
            await recorder.record(usage(1), idempotency_key="with spaces")
        with pytest.raises(TypeError, match="a Usage or its fields"):
            await recorder.record(usage(1), service="storage")  # type: ignore[call-overload]  # what is tested
        assert recorder.counts.recorded == (await recorder.status()).pending == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 10_001),
        ("max_records", 0),
        ("max_bytes", 4_095),
        ("close_timeout", -1.0),
        ("close_timeout", float("nan")),
        ("on_full", "drop"),
    ],
)
async def test_a_bad_option_is_refused(name: str, value: Any) -> None:
    async with away() as client:
        with pytest.raises(ConfigurationError, match=name):
            client.recorder(**{name: value})


async def test_usage_of_a_clock_that_is_ahead_waits(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=6)
    async with client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        await recorder.record(usage(1, occurred_at=ahead))
        await recorder.record(usage(2))
        await recorder._delivery.wait_for(1)
        assert await recorder.dead_letters() == []
    assert (recorder.counts.delivered, recorder.counts.pending) == (1, 1)
