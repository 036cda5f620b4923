"""The life of a recorder: opened once, used in one loop, closed within its time."""

import asyncio
import time
from pathlib import Path

import pytest

from billing_client import RecorderCounts, SpoolInUseError, UsageRecorder
from tests.client.answers import client_of, record_all, usage
from tests.client.misbehaving import misbehaving, silent
from tests.client.recorders import away, kept, status_of


async def test_a_recorder_works_only_inside_its_block(tmp_path: Path) -> None:
    async with away() as client:
        recorder = client.recorder(spool=tmp_path / "usage.db", close_timeout=0)
        for call in (recorder.record(usage(1)), recorder.flush(), recorder.close()):
            with pytest.raises(RuntimeError, match="inside its `async with` block"):
                await call
        async with recorder:
            await recorder.record(usage(1))
            with pytest.raises(RuntimeError, match="opened once"):
                await recorder.__aenter__()
        for refused in (recorder.redrive(), recorder.discard()):
            with pytest.raises(RuntimeError, match="closed"):
                await refused
        with pytest.raises(RuntimeError, match="closed"):
            await recorder.record(usage(2))
        assert await recorder.close() == recorder.counts
    assert status_of(tmp_path / "usage.db").pending == 1


def test_a_recorder_is_refused_in_a_second_loop(tmp_path: Path) -> None:
    async def opened() -> UsageRecorder:
        async with away() as client:
            return await client.recorder(spool=tmp_path / "usage.db", close_timeout=0).__aenter__()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        recorder = first.run(opened())
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(recorder.record(usage(1)))
        first.run(recorder.close())


async def test_closing_delivers_what_it_can_until_its_deadline(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, *(usage(number) for number in range(20)), batch_size=10)
    async with misbehaving(record_all, silent) as server, client_of(server) as client:
        recorder = client.recorder(spool=spool, batch_size=10)
        await recorder.__aenter__()
        began = time.monotonic()
        counts = await recorder.close(timeout=1)
        assert 1 <= time.monotonic() - began < 8  # the answer would not have come within 10
    assert counts == RecorderCounts(recorded=0, delivered=10, duplicates=0, dead=0, pending=10)
    assert status_of(spool).attempted == 10


async def test_closing_waits_for_what_is_being_written(tmp_path: Path) -> None:
    async with away() as client:
        async with client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
            calls = [asyncio.create_task(recorder.record(usage(number))) for number in range(3_000)]
            await asyncio.sleep(0)
            assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)
    assert status_of(tmp_path / "usage.db").pending == recorder.counts.pending == 3_000


async def test_what_is_left_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await kept(tmp_path / "usage.db", usage(1))
    assert f"{tmp_path / 'usage.db'} holds 1 pending records, 0 dead letters" in caplog.text


async def test_a_flush_gives_up_at_its_deadline_and_says_how_far_it_got(tmp_path: Path) -> None:
    async with (
        misbehaving(record_all, silent) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder,
    ):
        await recorder.record(usage(1))
        assert (await recorder.flush(60)).delivered == 1
        await recorder.record(usage(2))
        assert await recorder.flush(0.05) == RecorderCounts(recorded=2, delivered=1, duplicates=0, dead=0, pending=1)


async def test_a_flush_waits_for_no_more_than_was_recorded_before_it(tmp_path: Path) -> None:
    async with (
        misbehaving(record_all, silent) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder,
    ):
        await recorder.record(usage(1))
        flush = asyncio.create_task(recorder.flush(60))
        await server.wait_for_requests(1)
        await recorder.record(usage(2))
        assert (await flush).delivered == 1


async def test_an_error_in_the_block_closes_the_spool_too(tmp_path: Path) -> None:
    async def use() -> None:
        async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
            await recorder.record(usage(1))
            raise LookupError

    for number in range(2):
        with pytest.raises(LookupError):
            await use()
        assert status_of(tmp_path / "usage.db").pending == number + 1


async def test_cancelling_while_it_closes_closes_it(tmp_path: Path) -> None:
    async def use() -> None:
        async with client.recorder(spool=tmp_path / "usage.db", close_timeout=60) as recorder:
            await recorder.record(usage(1))

    async with misbehaving(silent) as server, client_of(server) as client:
        task = asyncio.create_task(use())
        await server.wait_for_requests(1)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        await kept(tmp_path / "usage.db", usage(2))  # the spool is free
    assert status_of(tmp_path / "usage.db").pending == 2


async def test_cancelling_while_it_opens_leaves_the_spool_free(tmp_path: Path) -> None:
    async with away() as client:
        task = asyncio.create_task(client.recorder(spool=tmp_path / "usage.db").__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        async with asyncio.timeout(30):
            await _until_free(tmp_path / "usage.db")


async def _until_free(spool: Path) -> None:
    while True:
        try:
            return await kept(spool, usage(1))
        except SpoolInUseError:
            await asyncio.sleep(0.01)
