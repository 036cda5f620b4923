"""The end of a process: told to its callers first, then carried out."""

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
    """Whether this process was told to stop. From then on it is not ready, and each answer closes its connection.

    The server is told `delay` seconds later: time for a load balancer to notice, and to send its calls elsewhere.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self.announced = False

    def watch(self) -> None:
        """Take the signals before the server, whose handlers are in place; a process that serves for another stops
        with it, even where that one was killed. Does nothing outside the main thread, which alone gets signals."""
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
        self, loop: asyncio.AbstractEventLoop, serve_no_more: _Handler, number: int, frame: FrameType | None
    ) -> None:
        if not self.announced:
            self.announced = True
            loop.call_soon_threadsafe(loop.call_later, self._delay, serve_no_more, number, None)
        elif number == signal.SIGINT:  # a second Ctrl-C; a second SIGTERM comes of telling the workers too
            serve_no_more(number, frame)


def _stop_with_parent(loop: asyncio.AbstractEventLoop, sentinel: int) -> None:
    loop.remove_reader(sentinel)
    signal.raise_signal(signal.SIGTERM)
