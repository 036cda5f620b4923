"""The deadlines of many calls, with one timer for all of them."""

import asyncio
from types import TracebackType


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
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self._task, self._cancelling = task, task.cancelling()
        loop, deadlines = task.get_loop(), self._deadlines
        deadlines.running[self] = loop.time() + deadlines.seconds
        deadlines.watch(loop)

    def stop(self) -> None:
        """End the block: its time is over."""
        self._is_over = True
        self._deadlines.running.pop(self, None)
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.running.pop(self, None)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
