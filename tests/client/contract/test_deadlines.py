"""One timer for the deadlines of many calls: each ends in its own time, and a cancellation stays one."""

import asyncio

import pytest

from billing_client.contract.deadlines import Deadlines, Limit

SECONDS = 0.3


async def ended_after(deadlines: Deadlines, wait: float = 60.0) -> float:
    """How long a block was let run that would have taken `wait` seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError), Limit(deadlines):
        await asyncio.sleep(wait)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return loop.time() - began


async def test_each_block_ends_in_its_own_time() -> None:
    deadlines = Deadlines(SECONDS)
    blocks = []
    for _ in range(4):
        blocks.append(asyncio.create_task(ended_after(deadlines)))
        await asyncio.sleep(SECONDS / 4)
    for seconds in await asyncio.gather(*blocks):
        assert seconds >= SECONDS * 0.99
    assert await ended_after(deadlines) >= SECONDS * 0.99  # the timer is set again after a rest


async def test_blocks_that_are_over_in_time_are_left_alone() -> None:
    deadlines = Deadlines(SECONDS)
    for _ in range(3):
        with Limit(deadlines):
            await asyncio.sleep(0)
    with pytest.raises(KeyError), Limit(deadlines):
        raise KeyError
    last = asyncio.create_task(ended_after(deadlines))
    await asyncio.sleep(SECONDS * 1.5)  # past the deadlines of the others
    assert await last >= SECONDS * 0.99


async def test_a_cancellation_is_no_timeout() -> None:
    deadlines = Deadlines(60)
    reached = asyncio.Event()

    async def block() -> None:
        with Limit(deadlines):
            reached.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_a_cancellation_at_the_deadline_is_no_timeout() -> None:
    """Whoever cancels a call must find it cancelled, though its time was over at that moment."""
    deadlines = Deadlines(SECONDS)
    task = asyncio.create_task(ended_after(deadlines))
    await asyncio.sleep(0)
    limit = next(iter(deadlines.running))
    limit.stop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_a_deadline_needs_a_task() -> None:
    raised: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def outside() -> None:
        try:
            with Limit(Deadlines(1)):
                pass
        except RuntimeError as error:
            raised.set_result(error)

    asyncio.get_running_loop().call_soon(outside)
    assert "task" in str(await raised)


async def test_a_client_that_is_closed_leaves_no_timer() -> None:
    deadlines = Deadlines(60)
    with Limit(deadlines):
        timer = deadlines._timer
    assert timer is not None
    deadlines.close()
    deadlines.close()
    assert timer.cancelled()
    with Limit(deadlines):
        assert deadlines._timer is not timer  # what begins later is limited too
    deadlines.close()
