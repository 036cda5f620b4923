"""From callers to the disk: many uses as one, and uses that nobody waits for."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from billing_client import (
    BillingSystemClient,
    RecorderClosedError,
    SpoolDiskFullError,
    SpoolFullError,
    Usage,
    ValidationError,
)
from billing_client.spooling.intake import MOST_SOON
from tests.client.answers import client_of, problem, record_all, usage
from tests.client.misbehaving import Connection, Request, misbehaving
from tests.client.recorders import away, hurried, in_spool_thread, kept, records_of, settle, status_of
from tests.services import Service, until


def events_in(spool: Path) -> list[str]:
    with closing(sqlite3.connect(spool)) as connection:
        return [row[0] for row in connection.execute("SELECT body ->> 'eventId' FROM pending ORDER BY seq")]


def events_of(request: Request) -> list[str]:
    return [record["eventId"] for record in records_of(request)]


async def test_many_are_recorded_as_one(shared_service: Service, customer: str, tmp_path: Path) -> None:
    async with BillingSystemClient(base_url=shared_service.url) as client:
        async with client.recorder(spool=tmp_path / "usage.db") as recorder:
            ids = await recorder.record_many(usage(number, customer_id=customer) for number in range(3))
            assert await recorder.record_many([]) == []
        stored = [record.request_id async for record in client.usage(customer_id=customer)]
    assert sorted(ids) == sorted(stored)
    assert (recorder.counts.recorded, recorder.counts.delivered) == (3, 3)


async def test_many_are_on_disk_all_or_none(tmp_path: Path) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA max_page_count = 12")
        with pytest.raises(SpoolDiskFullError):
            await recorder.record_many([usage(number) for number in range(1_000)])
        assert (await recorder.status()).pending == recorder.counts.recorded == 0
        await recorder.record_many([usage(number) for number in range(3)])
        assert (await recorder.status()).pending == 3


async def test_a_fault_of_one_refuses_all_and_every_fault_is_named(tmp_path: Path) -> None:
    uses = [usage(1), usage(2, service=""), usage(3, units_consumed="x")]
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        with pytest.raises(ValidationError) as refused:
            await recorder.record_many(uses)
        assert [error.pointer for error in refused.value.errors] == ["/1/service", "/2/unitsConsumed"]
        assert recorder.counts.recorded == 0


async def test_more_than_a_batch_holds_is_refused(tmp_path: Path) -> None:
    async with (
        away() as client,
        client.recorder(spool=tmp_path / "usage.db", batch_size=2, close_timeout=0) as recorder,
    ):
        with pytest.raises(ValidationError, match=r"3 uses of .* bytes are more than a batch of 2 uses"):
            await recorder.record_many([usage(number) for number in range(3)])


async def spool_of_calls(spool: Path, *calls: list[Usage], batch_size: int) -> None:
    async with away() as client, client.recorder(spool=spool, batch_size=batch_size, close_timeout=0) as recorder:
        for call in calls:
            await recorder.record_many(call)


async def test_what_belongs_together_is_one_batch_on_the_wire(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    calls = [[usage(0)], [usage(1), usage(2), usage(3)], [usage(4)], [usage(5), usage(6)]]
    await spool_of_calls(spool, *calls, batch_size=4)
    # a service that was away is sent little at first: never a part of a call
    script = [problem(503, "unavailable"), record_all]
    async with (
        misbehaving(*script) as server,
        client_of(server, max_attempts=1) as client,
        client.recorder(spool=spool, batch_size=4) as recorder,
    ):
        await settle(recorder)
    sent = [events_of(request) for request in server.requests[1:]]
    batch_of = {event: number for number, batch in enumerate(sent) for event in batch}
    assert sum(map(len, sent)) == len(batch_of) == 7
    for call in calls:
        assert len({batch_of[str(each.event_id)] for each in call}) == 1
    assert len(sent[0]) < 4


async def test_what_belongs_together_is_parted_where_one_of_it_makes_the_service_fail(tmp_path: Path) -> None:
    async def step(connection: Connection, request: Request) -> None:
        await (problem(500, "internal_error") if "event-2" in events_of(request) else record_all)(connection, request)

    spool = tmp_path / "usage.db"
    await spool_of_calls(spool, [usage(1), usage(2), usage(3)], batch_size=4)
    async with (
        misbehaving(step) as server,
        client_of(server) as client,
        client.recorder(spool=spool, batch_size=4, close_timeout=0) as recorder,
        asyncio.timeout(60),
    ):
        await recorder._delivery.wait_for(2)
    assert (recorder.counts.delivered, recorder.counts.pending) == (2, 1)


async def test_equal_usage_of_one_call_is_a_duplicate_as_elsewhere(
    shared_service: Service, customer: str, tmp_path: Path
) -> None:
    use = usage(1, event_id=None, customer_id=customer)
    async with (
        BillingSystemClient(base_url=shared_service.url) as client,
        client.recorder(spool=tmp_path / "usage.db") as recorder,
    ):
        await recorder.record_many([use, use])
        await settle(recorder)
    assert (recorder.counts.delivered, recorder.counts.duplicates) == (1, 1)


async def test_many_under_a_key_of_their_own(tmp_path: Path) -> None:
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db") as recorder,
    ):
        await asyncio.gather(
            recorder.record_many([usage(1), usage(2)], idempotency_key="call-1"), recorder.record(usage(3))
        )
        await settle(recorder)
    assert [(request.header("Idempotency-Key") == "call-1", events_of(request)) for request in server.requests] == [
        (True, ["event-1", "event-2"]),
        (False, ["event-3"]),
    ]


async def test_what_is_taken_soon_is_written_in_order_and_by_closing_at_the_latest(tmp_path: Path) -> None:
    async with away() as client:
        async with client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
            ids = [recorder.record_soon(usage(number)) for number in range(2_500)]
            assert recorder.counts.recorded == 0  # nothing of it could be written yet
        assert recorder.counts.recorded == recorder.counts.pending == 2_500
        with pytest.raises(RecorderClosedError):
            recorder.record_soon(usage(1))
    assert len(set(ids)) == 2_500
    assert events_in(tmp_path / "usage.db") == [f"event-{number}" for number in range(2_500)]


async def test_what_is_taken_soon_has_a_bound(tmp_path: Path) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        one = usage(1)
        for _ in range(MOST_SOON):
            recorder.record_soon(one)
        with pytest.raises(SpoolFullError):
            recorder.record_soon(one)
        await recorder.record(usage(2))  # so the others are on disk too
        recorder.record_soon(usage(3))
        with pytest.raises(ValidationError):
            recorder.record_soon(usage(4, service=""))
    assert status_of(tmp_path / "usage.db").pending == MOST_SOON + 2


async def test_what_is_taken_soon_fits_into_the_spool_or_is_refused(tmp_path: Path) -> None:
    async with (
        away() as client,
        client.recorder(spool=tmp_path / "usage.db", max_records=1, close_timeout=0) as recorder,
    ):
        recorder.record_soon(usage(1))
        with pytest.raises(SpoolFullError, match="it holds 1 records"):
            recorder.record_soon(usage(2))


async def test_what_the_disk_did_not_take_is_kept_in_memory_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with away() as client, hurried(client.recorder(spool=tmp_path / "usage.db", close_timeout=0)) as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA query_only = ON")
        recorder.record_soon(usage(1))
        await until(lambda: "in memory only for now" in caplog.text)
        assert recorder.counts.recorded == 0
        await in_spool_thread(recorder, connection.execute, "PRAGMA query_only = OFF")
        await until(lambda: recorder.counts.recorded == 1)
    assert events_in(tmp_path / "usage.db") == ["event-1"]


async def test_what_cannot_be_written_until_the_end_is_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA query_only = ON")
        recorder.record_soon(usage(1))
        recorder.record_soon(usage(2))
    assert "2 uses that record_soon() took are lost" in caplog.text


OLD_SCHEMA = """
PRAGMA application_id = 0x62696c6c;
PRAGMA user_version = 1;
CREATE TABLE pending (
    seq INTEGER CONSTRAINT pending_pkey PRIMARY KEY AUTOINCREMENT,
    idempotency_key TEXT NOT NULL, request_id TEXT NOT NULL, recorded_at TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL
);
CREATE TABLE dead (
    seq INTEGER CONSTRAINT dead_pkey PRIMARY KEY,
    idempotency_key TEXT NOT NULL, request_id TEXT NOT NULL, recorded_at TEXT NOT NULL,
    attempts INTEGER NOT NULL, body BLOB NOT NULL, dead_at TEXT NOT NULL, problem BLOB NOT NULL
);
"""


async def test_a_spool_of_release_0_2_is_taken_over(tmp_path: Path) -> None:
    spool, new = tmp_path / "usage.db", tmp_path / "new.db"
    await kept(new, usage(1), usage(2))
    with closing(sqlite3.connect(spool)) as connection, connection:
        connection.executescript(OLD_SCHEMA)
        connection.execute("ATTACH ? AS new", (str(new),))
        columns = "seq, idempotency_key, request_id, recorded_at, attempts, body"
        connection.execute(f"INSERT INTO pending ({columns}) SELECT {columns} FROM new.pending")
    assert status_of(spool).pending == 2
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        client.recorder(spool=spool) as recorder,
    ):
        await recorder.record(usage(3))
        await settle(recorder)
    assert recorder.counts.delivered == 3
    assert status_of(spool).pending == 0
