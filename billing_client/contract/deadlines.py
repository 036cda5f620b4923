"""The deadlines of many calls, with one timer for all of them."""

import asyncio
from types import TracebackType
from typing import Any, Self


class Deadlines:
    """Limits blocks of code to so many seconds each, as `asyncio.timeout` does.

    All have the same time, so they end in the order in which they began, and the timer is always that of the first.
    A timer for each, which almost always is cancelled, costs a call 11 µs among 64: more than to encode it.

    Args:
        seconds: How long each block may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running: dict[Limit, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that there is a timer for the block that began first."""
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._stop_what_is_due)

    def _stop_what_is_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for limit, end in list(self.running.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._stop_what_is_due)
                return
            limit.stop()


class Limit:
    """A context manager for one block, which raises TimeoutError when the time is over.

    What a cancellation is for is told as in `asyncio.Timeout`, by counting them (bpo-46771).

    Args:
        deadlines: Those with the same time.
        starts: Whether the time begins with the block, or only with the first `start`.
    """

    __slots__ = ("_cancelling", "_deadlines", "_is_over", "_starts", "_task")

    def __init__(self, deadlines: Deadlines, *, starts: bool = True) -> None:
        self._deadlines = deadlines
        self._starts = starts
        self._is_over = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self._cancelling = task.cancelling()
        if self._starts:
            self.start()
        return self

    def start(self) -> None:
        """Let the time begin now, also if it began before; nothing once the block is left."""
        if self._task is None or self._is_over:
            return
        deadlines, loop = self._deadlines, self._task.get_loop()
        deadlines.running.pop(self, None)  # the order is that in which they end
        deadlines.running[self] = loop.time() + deadlines.seconds
        deadlines.watch(loop)

    def stop(self) -> None:
        """End the block: its time is over."""
        self._deadlines.running.pop(self, None)
        if self._task is not None:
            self._is_over = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.running.pop(self, None)
        task, self._task = self._task, None
        if not self._is_over or task is None:
            return
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
