"""Callers that go away: a use whose recording has begun is billed, whatever happens to its caller."""

import asyncio
from pathlib import Path

import anyio
import pytest

from billing_client import BillingSystemClient, SpoolDiskFullError, SpoolFullError, UsageRecorder
from tests.client.answers import usage
from tests.client.apps import Tokens, app_of, calling, serving
from tests.client.recorders import away, in_spool_thread, status_of
from tests.services import Service, until

HANG_UPS = 10


async def billed(service: Service, customer_id: str) -> list[str]:
    async with BillingSystemClient(base_url=service.url) as client:
        return [record.event_id or "" async for record in client.usage(customer_id=customer_id, page_size=1_000)]


@pytest.mark.parametrize("kind", ["finally", "waiting"])
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
async def test_what_a_handler_records_is_billed_though_its_client_hangs_up(
    framework: str, kind: str, shared_service: Service, customer: str, tmp_path: Path
) -> None:
    tokens = Tokens(customer, kind)
    with serving(app_of(framework, tokens, shared_service.url, tmp_path / "usage.db")) as port:
        for _ in range(HANG_UPS):
            async with calling(port) as answer:
                await answer.readuntil(b"token ")
        # A generator that was not waiting when its handler was cancelled is ended by the event loop, a moment later.
        await until(lambda: len(tokens.begun) >= HANG_UPS)
    assert len(tokens.begun) >= HANG_UPS
    assert sorted(await billed(shared_service, customer)) == sorted(tokens.begun)
    assert kind == "waiting" or len(tokens.begun) == HANG_UPS


async def test_a_cancellation_is_reported_once_the_use_is_on_disk(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        for number in range(20):
            call = asyncio.create_task(recorder.record(usage(number)))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert status_of(spool).pending == recorder.counts.recorded == number + 1


async def test_a_time_out_and_a_cancelled_scope_are_reported_as_such(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await recorder.record(usage(1))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await recorder.record_many([usage(2), usage(3)])
        assert scope.cancelled_caught
        assert status_of(spool).pending == 3


async def test_who_is_cancelled_while_waiting_for_room_is_recorded_once_there_is_some(tmp_path: Path) -> None:
    async with (
        away() as client,
        client.recorder(spool=tmp_path / "usage.db", max_records=1, close_timeout=0) as recorder,
    ):
        await recorder.record(usage(1))
        call = asyncio.create_task(recorder.record(usage(2)))
        await asyncio.sleep(0)
        call.cancel()
        recorder._capacity.release(1, 0)
        with pytest.raises(asyncio.CancelledError):
            await call
    assert status_of(tmp_path / "usage.db").pending == 2


async def test_a_failure_is_logged_if_its_caller_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA max_page_count = 1")
        call = asyncio.create_task(recorder.record_many([usage(number) for number in range(100)]))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await call
        assert isinstance(cancelled.value.__cause__, SpoolDiskFullError)
    assert "failed after its caller was cancelled" in caplog.text


async def test_a_call_gives_up_in_time_where_the_spool_is_full(tmp_path: Path) -> None:
    async with (
        away() as client,
        client.recorder(spool=tmp_path / "usage.db", max_records=1, close_timeout=0) as recorder,
    ):
        await recorder.record(usage(1))
        for call in (recorder.record(usage(2), timeout=0.01), recorder.record_many([usage(3)], timeout=0)):
            with pytest.raises(SpoolFullError, match="the spool is full"):
                await call
    async with away() as client:
        options = {"spool": tmp_path / "usage.db", "max_records": 1, "full_timeout": 0.01}
        async with client.recorder(**options, close_timeout=0) as recorder:  # type: ignore[arg-type]  # all are options
            with pytest.raises(SpoolFullError, match=r"for 0\.01 s"):
                await recorder.record(usage(2))


def test_the_end_of_asyncio_run_waits_for_calls_that_have_begun_and_hangs_for_none(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    recorders: list[UsageRecorder] = []

    async def main() -> None:
        client = BillingSystemClient(base_url="http://127.0.0.1:9", timeout=0.2)
        recorder = await client.recorder(spool=spool, max_records=20, full_timeout=3_600).__aenter__()
        recorders.append(recorder)
        calls = [asyncio.create_task(recorder.record(usage(number))) for number in range(30)]  # 10 wait for room
        await asyncio.sleep(0)
        assert not any(call.done() for call in calls)

    asyncio.run(main())
    assert recorders[0].counts.recorded == status_of(spool).pending == 20
    recorders[0]._outbox.executor.submit(recorders[0]._outbox.file.close).result()
