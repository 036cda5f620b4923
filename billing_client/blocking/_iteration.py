"""Iterates in one thread over what an async generator yields in another, without a switch of threads for each item."""

import asyncio
import os
import queue
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing
from typing import Any, Generic, NamedTuple, TypeVar

from billing_client.blocking._loop_thread import LoopThread

S = TypeVar("S")
T = TypeVar("T")
READ_AHEAD = 1_000  # items that the loop may yield before the caller asks for them
PIECE_ITEMS, PIECE_SECONDS = 100, 0.001  # of the caller's own items, how many go to the loop at once, and how soon


class _Work(NamedTuple):
    """Something to do in the caller's thread once the caller asks for more; the loop waits for its result."""

    function: Callable[[], Any]
    done: "asyncio.Future[Any]"


class _End(NamedTuple):
    """There is nothing more."""

    error: BaseException | None


class Caller(Generic[T]):
    """The thread that iterates, as the loop sees it."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[tuple[T] | _Work | _End] = queue.SimpleQueue()

    def start(self, make: Callable[["Caller[T]"], AsyncGenerator[T, None]]) -> "asyncio.Task[None]":
        """Begin to send the caller what a generator yields, a little ahead of what the caller asks for."""
        task = asyncio.create_task(self._pump(make))
        task.add_done_callback(self._end)
        return task

    async def _pump(self, make: Callable[["Caller[T]"], AsyncGenerator[T, None]]) -> None:
        ahead = 0
        async with aclosing(make(self)) as source:
            async for item in source:
                self.messages.put((item,))
                ahead += 1
                if ahead == READ_AHEAD:
                    await self._do(_nothing)
                    ahead = 0

    async def feed(self, items: Iterable[S]) -> AsyncGenerator[S, None]:
        """The items of the caller's iterable, which is iterated in its own thread as more are asked for."""
        iterator = iter(items)
        while piece := await self._do(lambda: _piece(iterator)):
            for item in piece:
                yield item

    def _end(self, task: "asyncio.Task[None]") -> None:
        closed = RuntimeError("this client was closed during the call")
        self.messages.put(_End(closed if task.cancelled() else task.exception()))

    async def _do(self, function: Callable[[], S]) -> S:
        done: asyncio.Future[S] = asyncio.get_running_loop().create_future()
        self.messages.put(_Work(function, done))
        return await done


def iterate(thread: LoopThread, make: Callable[[Caller[T]], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
    """What the generator yields that `make` makes in the loop. A caller that stops early closes it."""
    caller: Caller[T] = Caller()
    task = thread.call(lambda: caller.start(make))
    has_ended = False
    try:
        while os.getpid() == thread.pid:
            match caller.messages.get():
                case _Work(function, done):
                    _work(thread, function, done)
                case _End(error):
                    has_ended = True
                    if error is not None:
                        raise error
                    return
                case (item,):
                    yield item
        raise RuntimeError("an iterator of the process that this one was forked from; make another")
    finally:
        if not has_ended and os.getpid() == thread.pid:
            _stop(thread, task, caller)


def _work(thread: LoopThread, function: Callable[[], Any], done: "asyncio.Future[Any]") -> None:
    try:
        result, error = function(), None
    except Exception as raised:  # noqa: BLE001 - the generator that asked for the work raises it
        result, error = None, raised

    def settle() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    thread.call_soon(settle)


def _stop(thread: LoopThread, task: "asyncio.Task[None]", caller: Caller[Any]) -> None:
    """Close the generator, and wait until it is closed; not where the garbage collector of the loop's thread calls."""
    if thread.is_current():
        task.cancel()
        return
    thread.call_soon(task.cancel)
    while not isinstance(caller.messages.get(), _End):
        pass


def _piece(iterator: Iterable[S]) -> list[S]:
    """Some items, fewer where they come slowly."""
    piece: list[S] = []
    end = time.monotonic() + PIECE_SECONDS
    for item in iterator:
        piece.append(item)
        if len(piece) == PIECE_ITEMS or time.monotonic() >= end:
            break
    return piece


def _nothing() -> None:
    """No work: the loop only waits until the caller asks for more."""
