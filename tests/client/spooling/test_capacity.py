"""The bounds of a spool."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from billing_client import SpoolFullError
from billing_client.spooling.capacity import Capacity
from tests.client.answers import client_of, record_all, usage
from tests.client.misbehaving import Connection, Request, misbehaving
from tests.client.recorders import away, kept, settle, status_of


async def reserve(room: Capacity, size: int) -> "asyncio.Task[None]":
    """A call that wants room, and has begun to wait where there is none."""
    task = asyncio.create_task(room.reserve(1, size, timeout=60))
    await asyncio.sleep(0)
    return task


async def test_who_finds_no_room_waits_in_the_order_of_the_calls(caplog: pytest.LogCaptureFixture) -> None:
    room = Capacity(max_records=2, max_bytes=100)
    large, larger, small = [await reserve(room, size) for size in (60, 60, 10)]
    assert (large.done(), larger.done(), small.done()) == (True, False, False)
    room.release(1, 60)
    await asyncio.wait([larger, small], timeout=10)
    assert larger.done()
    assert small.done()
    third = await reserve(room, 10)
    assert not third.done()
    room.release(1, 10)
    await third
    assert [record.message for record in caplog.records] == ["record() waits: the spool holds 1 records, 60 bytes"]


async def test_who_gives_up_leaves_the_room_to_the_next() -> None:
    room = Capacity(max_records=10, max_bytes=100)
    await room.reserve(1, 60, timeout=60)
    large, small = [await reserve(room, size) for size in (60, 40)]
    large.cancel()
    await asyncio.wait([small], timeout=10)
    assert small.done()


async def test_who_gives_up_at_the_moment_of_being_let_in_gives_the_room_back() -> None:
    room = Capacity(max_records=1, max_bytes=100)
    await room.reserve(1, 1, timeout=60)
    first, second = [await reserve(room, 1) for _ in range(2)]
    room.release(1, 1)
    first.cancel()
    await asyncio.wait([first, second], timeout=10)
    assert first.cancelled()
    assert second.done()
    assert second.exception() is None


async def test_who_may_not_wait_is_refused() -> None:
    room = Capacity(max_records=1, max_bytes=100)
    await room.reserve(1, 1, timeout=0)
    with pytest.raises(SpoolFullError, match="the spool is full: it holds 1 records, 1 bytes"):
        await room.reserve(1, 1, timeout=0)


async def test_who_waited_long_enough_is_refused_and_leaves_the_room_to_the_next() -> None:
    room = Capacity(max_records=10, max_bytes=100)
    await room.reserve(1, 60, timeout=0)
    large = asyncio.create_task(room.reserve(1, 60, timeout=0.02))
    await asyncio.sleep(0)
    small = await reserve(room, 40)
    with pytest.raises(SpoolFullError, match=r"the spool is full for 0\.02 s"):
        await large
    await asyncio.wait([small], timeout=10)
    assert small.done()


async def test_what_can_never_fit_does_not_wait() -> None:
    room = Capacity(max_records=10, max_bytes=100)
    for records, size in ((11, 1), (1, 101)):
        with pytest.raises(SpoolFullError, match="never fit"):
            await room.reserve(records, size, timeout=60)


@pytest.mark.parametrize("bound", [{"max_records": 3}, {"max_bytes": 4_096}], ids=["records", "bytes"])
async def test_at_the_bound_a_call_waits_and_nothing_is_dropped(bound: dict[str, Any], tmp_path: Path) -> None:
    held: list[int] = []

    async def look(connection: Connection, request: Request) -> None:
        held.append(status_of(tmp_path / "usage.db").pending)
        await record_all(connection, request)

    async with (
        misbehaving(look) as server,
        client_of(server) as client,
        client.recorder(spool=tmp_path / "usage.db", **bound) as recorder,
    ):
        await asyncio.gather(*(recorder.record(usage(number)) for number in range(100)))
        await settle(recorder)
    assert recorder.counts.delivered == 100
    assert 1 < max(held) <= bound.get("max_records", 40)


async def test_at_the_bound_a_call_is_refused_if_told_so(tmp_path: Path) -> None:
    async with away() as client:
        options: dict[str, Any] = {"spool": tmp_path / "usage.db", "max_records": 2, "close_timeout": 0}
        async with client.recorder(**options, on_full="raise") as recorder:
            results = await asyncio.gather(*(recorder.record(usage(n)) for n in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [str, str, SpoolFullError]
            assert (await recorder.status()).pending == recorder.counts.pending == 2


async def test_what_a_spool_came_with_counts_too_and_so_do_dead_letters(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1), usage(2))
    async with (
        away() as client,
        client.recorder(spool=spool, max_records=2, on_full="raise", close_timeout=0) as recorder,
    ):
        batch, _ = await recorder._outbox.take(2)
        await recorder._outbox.settle([], [(record, b"{}") for record in batch])
        with pytest.raises(SpoolFullError):
            await recorder.record(usage(3))
        assert await recorder.discard([batch[0].usage.request_id]) == 1
        await recorder.record(usage(3))
        assert (await recorder.status()).bytes == sum(len(batch[1].usage.body) for _ in range(2))


async def test_closing_sends_away_who_waits_for_room(tmp_path: Path) -> None:
    async with away() as client:
        async with client.recorder(spool=tmp_path / "usage.db", max_records=1, close_timeout=0) as recorder:
            await recorder.record(usage(1))
            waiting = asyncio.create_task(recorder.record(usage(2)))
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
    assert status_of(tmp_path / "usage.db").pending == 1


async def test_closing_refuses_who_was_given_room_at_that_moment(tmp_path: Path) -> None:
    async with away() as client:
        async with client.recorder(spool=tmp_path / "usage.db", max_records=1, close_timeout=0) as recorder:
            await recorder.record(usage(1))
            waiting = asyncio.create_task(recorder.record(usage(2)))
            await asyncio.sleep(0)
            recorder._capacity.release(1, 0)
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
    assert status_of(tmp_path / "usage.db").pending == 1
