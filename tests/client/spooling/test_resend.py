"""What was delivered is kept for a while, and comes back to a service that lost it."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from billing_client import BillingSystemClient, ConfigurationError, DeliveredEvent, Spool
from billing_client.spooling.spool_folder import spools_in
from tests.client.answers import client_of, record_all, usage
from tests.client.misbehaving import misbehaving
from tests.client.recorders import Hook, away, records_of, settle, status_of

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def delivered(spool: Path, records: int, **options: Any) -> None:
    """A spool whose records are delivered, and kept if told so."""
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool, **options) as recorder,
    ):
        for number in range(records):
            await recorder.record(usage(number))
            await settle(recorder)


async def test_a_service_that_lost_usage_gets_it_back_and_counts_the_rest_once(
    client: BillingSystemClient, customer_id: str, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    hook = Hook()
    options: dict[str, Any] = {"spool": tmp_path / "usage.db", "keep_delivered": "24h", "on_event": hook}
    async with client.recorder(**options) as recorder:
        await asyncio.gather(*(recorder.record(usage(number)) for number in range(4)))
        await settle(recorder)
        lost = datetime.now(UTC)
        await recorder.record(usage(4))
        await settle(recorder)
        await connection.execute("SET session_replication_role = replica")  # without the triggers that forbid it
        await connection.execute("DELETE FROM usage_records WHERE event_id IN ('event-3', 'event-4')")
        assert len([record async for record in client.usage(customer_id=customer_id)]) == 3
        assert await recorder.resend(lost) == 1
        assert await recorder.resend(LONG_AGO) == 4
        await settle(recorder)
        assert (await recorder.status()).delivered == 5
    outcomes = [event.record.outcome for event in hook.of(DeliveredEvent)[5:]]
    assert sorted(map(str, outcomes)) == ["recorded", "recorded", "replayed", "replayed", "replayed"]
    records = [record async for record in client.usage(customer_id=customer_id)]
    assert sorted(str(record.event_id) for record in records) == [f"event-{number}" for number in range(5)]
    assert recorder.counts.duplicates == 0


async def test_offline_too_and_only_what_was_delivered_since(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await delivered(spool, 2, keep_delivered="1h")
    between = datetime.now(UTC)
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool, keep_delivered="1h") as recorder,
    ):
        await recorder.record(usage(2))
        await settle(recorder)
    with Spool(spool) as found:
        assert found.status().delivered == 3
        with pytest.raises(ValueError, match="time zone"):
            found.resend(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused
        assert found.resend(datetime.now(UTC) + timedelta(hours=1)) == 0
        assert found.resend(between.astimezone()) == 1
        assert (found.status().pending, found.status().delivered) == (1, 2)
        assert found.resend(LONG_AGO) == 2
        assert found.resend(LONG_AGO) == 0
    async with misbehaving(record_all) as server, client_of(server) as client:
        async with client.recorder(spool=spool) as recorder:
            await settle(recorder)
        sent = [record["eventId"] for request in server.requests for record in records_of(request)]
    assert sorted(sent) == ["event-0", "event-1", "event-2"]
    assert status_of(spool).delivered == 0  # this one kept none


@pytest.mark.parametrize(
    ("bound", "kept"), [({"max_records": 3}, 3), ({"max_bytes": 4_096, "max_records": 1_000}, 27), ({}, 40)]
)
async def test_what_is_kept_has_bounds_and_the_oldest_goes_first(
    bound: dict[str, Any], kept: int, tmp_path: Path
) -> None:
    spool = tmp_path / "usage.db"
    await delivered(spool, 40, keep_delivered="1h", **bound)
    assert abs(status_of(spool).delivered - kept) <= (1 if "max_bytes" in bound else 0)
    with Spool(spool) as found:
        found.resend(LONG_AGO)
    async with misbehaving(record_all) as server, client_of(server) as client:
        async with client.recorder(spool=spool) as recorder:
            await settle(recorder)
        sent = [record["eventId"] for request in server.requests for record in records_of(request)]
    assert sent == [f"event-{number}" for number in range(40 - len(sent), 40)]


async def test_what_is_kept_ends_with_its_time(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await delivered(spool, 3, keep_delivered=timedelta(microseconds=1))
    assert status_of(spool).delivered == 0
    await delivered(spool, 3)
    assert status_of(spool).delivered == 0


async def test_a_folder_keeps_the_file_of_what_is_kept_until_its_time_is_over(tmp_path: Path) -> None:
    async with misbehaving(record_all) as server, client_of(server) as client:
        async with client.recorder(spool_dir=tmp_path, keep_delivered="1h") as recorder:
            await recorder.record(usage(1))
        (spool,) = spools_in(tmp_path)
        assert status_of(spool).delivered == 1
        async with client.recorder(spool_dir=tmp_path, keep_delivered=timedelta(microseconds=1)):
            pass
    assert spools_in(tmp_path) == []


@pytest.mark.parametrize("given", ["24", "1w", "-1h", "0s", "32d", "1.5h", timedelta(days=32), timedelta(0), 3600, ""])
async def test_a_bad_time_to_keep_is_refused(given: Any) -> None:
    async with away() as client:
        with pytest.raises(ConfigurationError, match="keep_delivered"):
            client.recorder(keep_delivered=given)
