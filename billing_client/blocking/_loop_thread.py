"""An event loop in a thread of its own, for callers in other threads."""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads. It belongs to the process that made it; `close` ends it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stopping = asyncio.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        # a daemon, since the program may end without closing; an empty context, since each call brings its own
        self._thread = threading.Thread(
            target=contextvars.Context().run, args=(self._run, started), name="billing-client", daemon=True
        )
        self._thread.start()
        self.loop = started.result()

    def _run(self, started: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, in the caller's context, and wait for what it returns or raises.

        If the wait is interrupted, by Ctrl-C for example, the coroutine is cancelled.
        """
        if self.is_current():
            coroutine.close()
            raise RuntimeError(
                "a blocking call from on_event or trace_headers would wait for itself; make it in another thread"
            )
        with self._lock:  # what is begun before the loop is told to stop, is cancelled by it and so ends
            if self._is_closed:
                coroutine.close()
                raise RuntimeError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise RuntimeError("this client was closed during the call") from error
        finally:
            future.cancel()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread, and wait for what it returns or raises."""

        async def called() -> T:
            return function()

        return self.run(called())

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop's thread; not where the loop has ended, which ends all that it does."""
        with self._lock:
            if not self._is_closed:
                self.loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        """Whether the caller is the loop's own thread."""
        return threading.current_thread() is self._thread

    def leave(self, closing: Coroutine[Any, Any, object]) -> None:
        """Run a last coroutine, then end the thread, without waiting for either."""

        async def last() -> None:
            try:
                await closing
            finally:
                self._stopping.set()

        with self._lock:
            self._is_closed = True
            asyncio.run_coroutine_threadsafe(last(), self.loop)

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        with self._lock:
            self._is_closed = True
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
