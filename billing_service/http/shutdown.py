"""Graceful shutdown: callers are told first, then the server stops."""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]


class Shutdown:
    """Knows whether this process was told to stop.

    From then on the process is not ready, and each response closes its connection. The server is told later.
    That gives a load balancer time to notice and to send its calls elsewhere.
    """

    def __init__(self, delay: float) -> None:
        """Create the shutdown.

        Args:
            delay: Seconds between the first signal and the moment the server is told to stop; 0 or more.
        """
        self._delay = delay
        self.announced = False

    def watch(self) -> None:
        """Handle SIGINT and SIGTERM before the server does, whose handlers must be installed already.

        A worker process also stops if its parent process ends, even if that was killed. Does nothing outside the main
        thread: only that one receives signals.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._announce, loop, handler))
        parent = multiprocessing.parent_process()
        if parent is not None and os.name == "posix":
            loop.add_reader(parent.sentinel, _stop_with_parent, loop, parent.sentinel)

    def _announce(
        self, loop: asyncio.AbstractEventLoop, stop_server: _Handler, number: int, frame: FrameType | None
    ) -> None:
        if not self.announced:
            self.announced = True
            loop.call_soon_threadsafe(loop.call_later, self._delay, stop_server, number, None)
        elif number == signal.SIGINT:  # a second Ctrl-C skips the delay; the parent process repeats SIGTERM by itself
            stop_server(number, frame)


def _stop_with_parent(loop: asyncio.AbstractEventLoop, sentinel: int) -> None:
    loop.remove_reader(sentinel)
    signal.raise_signal(signal.SIGTERM)
