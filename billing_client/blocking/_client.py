"""The blocking client."""

import concurrent.futures.thread  # noqa: F401 - see the end of this file
import logging
import threading
import warnings
from types import TracebackType
from typing import Any
from weakref import WeakSet

from billing_client._client import BillingSystemClient
from billing_client.blocking._forks import abandon, watch_forks
from billing_client.blocking._loop_thread import LoopThread
from billing_client.blocking._methods import Blocking, iterating, parameters_of, waiting
from billing_client.blocking._recorder import UsageRecorder
from billing_client.spooling.recorder import UsageRecorder as AsyncRecorder

_logger = logging.getLogger(__name__)


class BillingClient(Blocking[BillingSystemClient]):
    """The client for code without asyncio: the methods of `BillingSystemClient`, which wait.

    Takes the arguments of BillingSystemClient, and raises its errors. Iterators are plain ones. Any number of threads
    can share a client. Its calls run in one background thread, which the first call starts, and which calls
    `trace_headers` and `on_event` too. In a forked process the client begins anew, with connections of its own.

    The `with` block or `close` closes it; if neither does, the end of the program. No hook of a program's end runs in a
    process that a signal kills, nor in a worker of Celery: close it yourself there.
    """

    @parameters_of(BillingSystemClient.__init__)
    def __init__(self, **settings: Any) -> None:
        self._thread: LoopThread | None = None
        self._settings = settings
        self._client = BillingSystemClient(**settings)
        self._lock = threading.Lock()
        self._is_closed = False
        self._recorders: WeakSet[UsageRecorder] = WeakSet()
        watch_forks(self)
        _ALL.add(self)

    def __repr__(self) -> str:
        return repr(self._client).replace(BillingSystemClient.__name__, type(self).__name__)

    def __enter__(self) -> "BillingClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._thread is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._thread.leave(self._client.close())

    def close(self) -> None:
        """Close the recorders of this client, and all connections. The client cannot be used again."""
        try:
            for recorder in list(self._recorders):
                recorder.close()
        finally:
            with self._lock:
                self._is_closed = True
                thread, self._thread = self._thread, None
            if thread is not None:
                thread.run(self._client.close())
                thread.close()

    record_usage = waiting(BillingSystemClient.record_usage)
    record_usages = iterating(BillingSystemClient.record_usages, fed="usages")
    void_usage = waiting(BillingSystemClient.void_usage)
    create_customer = waiting(BillingSystemClient.create_customer)
    update_customer = waiting(BillingSystemClient.update_customer)
    get_customer = waiting(BillingSystemClient.get_customer)
    customers = iterating(BillingSystemClient.customers)
    get_usage = waiting(BillingSystemClient.get_usage)
    usage = iterating(BillingSystemClient.usage)
    summary = waiting(BillingSystemClient.summary)
    summaries = iterating(BillingSystemClient.summaries)
    statement = waiting(BillingSystemClient.statement)
    issue_statement = waiting(BillingSystemClient.issue_statement)
    issue_statements = iterating(BillingSystemClient.issue_statements)
    issued_statements = iterating(BillingSystemClient.issued_statements)
    issued_statement = waiting(BillingSystemClient.issued_statement)
    statement_overview = iterating(BillingSystemClient.statement_overview)
    statement_keys = waiting(BillingSystemClient.statement_keys)
    usage_proof = waiting(BillingSystemClient.usage_proof)
    refusals = iterating(BillingSystemClient.refusals)
    refusal_counts = waiting(BillingSystemClient.refusal_counts)
    events = iterating(BillingSystemClient.events)
    export_usage = iterating(BillingSystemClient.export_usage)
    export_lines = iterating(BillingSystemClient.export_lines)

    @parameters_of(BillingSystemClient.recorder)
    def recorder(self, **options: Any) -> UsageRecorder:
        self._client.recorder(**options)  # which checks them

        def make() -> tuple[AsyncRecorder, LoopThread]:
            client, thread = self._in_thread()
            return client.recorder(**options), thread

        recorder = UsageRecorder(make)
        self._recorders.add(recorder)
        return recorder

    def begin_anew(self) -> None:
        """See Forkable."""
        abandon(self._client, self._thread, self._lock)
        self._client = BillingSystemClient(**self._settings)
        self._lock = threading.Lock()
        self._thread = None

    def _in_thread(self) -> tuple[BillingSystemClient, LoopThread]:
        thread = self._thread
        if thread is None:
            with self._lock:
                if self._is_closed:
                    raise RuntimeError("this client is closed")
                thread = self._thread = self._thread or LoopThread()
        return self._client, thread


_ALL: "WeakSet[BillingClient]" = WeakSet()


def _close_all() -> None:
    """Close what the program left open, while executors still work: those of the spools, for example."""
    for client in list(_ALL):
        try:
            client.close()
        except Exception:
            _logger.exception("%r could not be closed at the end of the program", client)


# atexit calls back only when executors take nothing any more; concurrent.futures itself uses this hook, and is imported
# before, so that it is called after
threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public one
