"""The blocking recorder."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from billing_client.blocking._forks import abandon, watch_forks
from billing_client.blocking._loop_thread import LoopThread
from billing_client.blocking._methods import Blocking, calling, parameters_of, waiting
from billing_client.spooling.recorder import RecorderCounts
from billing_client.spooling.recorder import UsageRecorder as AsyncRecorder


class UsageRecorder(Blocking[AsyncRecorder]):
    """Keeps usage safe until the service has it. `BillingClient.recorder` makes one.

    It has the methods of the async `UsageRecorder`, which wait here, and any number of threads can share it. The `with`
    block opens and closes it. Outside a block its first use opens it; its `close` closes it, or that of the client. In
    a forked process it begins anew, and its first use there opens a file of its own, if it has a `spool_dir`.
    """

    def __init__(self, make: Callable[[], tuple[AsyncRecorder, LoopThread]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._opened: tuple[AsyncRecorder, LoopThread] | None = None
        self._is_closed = False
        watch_forks(self)

    def __enter__(self) -> Self:
        self._in_thread()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> RecorderCounts:
        """What was done so far, and what is left."""
        if self._is_closed:
            return self._last_counts()
        recorder, thread = self._in_thread()
        return thread.call(lambda: recorder.counts)

    record = waiting(AsyncRecorder.record)
    record_many = waiting(AsyncRecorder.record_many)
    record_soon = calling(AsyncRecorder.record_soon)
    flush = waiting(AsyncRecorder.flush)
    status = waiting(AsyncRecorder.status)
    dead_letters = waiting(AsyncRecorder.dead_letters)
    redrive = waiting(AsyncRecorder.redrive)
    discard = waiting(AsyncRecorder.discard)
    resend = waiting(AsyncRecorder.resend)

    @parameters_of(AsyncRecorder.close)
    def close(self, timeout: float | None = None) -> RecorderCounts:
        with self._lock:
            opened = None if self._is_closed else self._opened
            self._is_closed = True
        if opened is not None:
            recorder, thread = opened
            return thread.run(recorder.close(timeout))
        return self._last_counts()

    def begin_anew(self) -> None:
        """See Forkable."""
        abandon(self._opened, self._lock)
        self._lock = threading.Lock()
        self._opened = None

    def _last_counts(self) -> RecorderCounts:
        if self._opened is None:
            return RecorderCounts(recorded=0, delivered=0, duplicates=0, dead=0, pending=0)
        return self._opened[0].counts

    def _in_thread(self) -> tuple[AsyncRecorder, LoopThread]:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this recorder is closed")
            if self._opened is None:
                recorder, thread = self._make()
                thread.run(recorder.__aenter__())
                self._opened = recorder, thread
            return self._opened
