"""The recorder: usage is safe when `record()` returns, and delivered in the background."""

import asyncio
import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload

import msgspec
from msgspec import Struct

from billing_client._encoding import checked_key, encode_usage
from billing_client._errors import ConfigurationError
from billing_client._records import DecimalLike, Usage
from billing_client._transport import Transport
from billing_client.contract.wire import MAX_BATCH_RECORDS
from billing_client.spooling.capacity import Room
from billing_client.spooling.delivery import Delivery
from billing_client.spooling.events import RecorderEvent
from billing_client.spooling.outbox import Entry
from billing_client.spooling.spool import DeadLetter, SpoolStatus
from billing_client.spooling.spool_thread import SpoolThread

GROUP_RECORDS = 1_000
LEAST_BYTES = 4_096  # more than any one record has

_logger = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    entry: Entry
    written: asyncio.Future[None]

    @property
    def size(self) -> int:
        return len(self.entry.usage.body)


class RecorderOptions(Struct, frozen=True, kw_only=True):
    """See BillingSystemClient.recorder."""

    spool: Path | None
    on_event: Callable[[RecorderEvent], None] | None
    on_full: Literal["wait", "raise"]
    max_records: int
    max_bytes: int
    batch_size: int
    close_timeout: float


def make_recorder(transport: Transport, **options: Any) -> "UsageRecorder":
    """A recorder with these options. Raises ConfigurationError."""
    checked = RecorderOptions(**options)
    if not 1 <= checked.batch_size <= MAX_BATCH_RECORDS:
        raise ConfigurationError(f"batch_size is {checked.batch_size!r}, but must be 1 to {MAX_BATCH_RECORDS}")
    if checked.on_full not in ("wait", "raise"):
        raise ConfigurationError(f"on_full is {checked.on_full!r}, but must be 'wait' or 'raise'")
    for name, least in (("max_records", 1), ("max_bytes", LEAST_BYTES), ("close_timeout", 0)):
        if not getattr(checked, name) >= least:  # NaN is not
            raise ConfigurationError(f"{name} is {getattr(checked, name)!r}, but must be at least {least}")
    return UsageRecorder(transport, checked)


class RecorderCounts(Struct, frozen=True, kw_only=True):
    """What a recorder did since it was opened, and how many records are `pending` now.

    `delivered` are stored, by this recorder; `duplicates` were stored before by another call, and added nothing;
    `dead` were refused. `recorded` is what `record()` took.
    """

    recorded: int
    delivered: int
    duplicates: int
    dead: int
    pending: int


class UsageRecorder:
    """Keeps usage safe until the service has it; see BillingSystemClient.recorder.

    An async context manager, for one event loop of one process. Every method raises SpoolError, and RuntimeError
    where the recorder is not open.
    """

    def __init__(self, transport: Transport, options: RecorderOptions) -> None:
        self._options = options
        self._room = Room(options.max_records, options.max_bytes)
        self._thread = SpoolThread()
        self._delivery = Delivery(transport, self._thread, self._room, options.batch_size, options.on_event)
        self._delivering: asyncio.Task[None] | None = None
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._taken = self._recorded = 0

    async def __aenter__(self) -> Self:
        """Open the spool, and begin to deliver what it holds."""
        if self._loop is not None:
            raise RuntimeError("a recorder is opened once; make another")
        self._loop = asyncio.get_running_loop()
        held = await self._thread.open(self._options.spool, self._options.batch_size)
        self._room.occupy(held.pending + held.dead, held.bytes)
        self._taken = held.pending
        self._delivering = asyncio.create_task(self._delivery.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def counts(self) -> RecorderCounts:
        """What was done so far, and what is left."""
        settled = self._delivery.settled
        return RecorderCounts(
            recorded=self._recorded,
            delivered=settled["delivered"],
            duplicates=settled["duplicate"],
            dead=settled["dead"],
            pending=self._taken - settled.total(),
        )

    @overload
    async def record(self, usage: Usage, *, idempotency_key: str | None = None) -> str: ...

    @overload
    async def record(
        self,
        *,
        customer_id: str,
        service: str,
        units_consumed: DecimalLike,
        price_per_unit: DecimalLike,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> str: ...

    async def record(self, usage: Usage | None = None, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Keep one use; when it returns, the use is on disk and will be delivered. Gives its request id.

        Without `occurred_at` it occurs now. `idempotency_key` names the call, a new one where not given: give your own
        to repeat a call that was cut off, at the price of a batch of its own. A call that is cancelled may have kept
        the use. Raises ValidationError, SpoolFullError (where `on_full` is "raise") and SpoolDiskFullError.
        """
        loop = self._running_loop()
        if usage is None:
            usage = Usage(**fields)
        elif fields:
            raise TypeError("record() takes a Usage or its fields, not both")
        if usage.occurred_at is None:
            usage = msgspec.structs.replace(usage, occurred_at=datetime.now(UTC))
        key = None if idempotency_key is None else checked_key(idempotency_key)
        waiting = _Waiting(Entry(encode_usage(usage), key), loop.create_future())
        await self._room.reserve(waiting.size, self._options.on_full == "wait")
        if self._is_closed:  # since this call was given room
            raise RuntimeError("this recorder was closed")
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await waiting.written
        return waiting.entry.usage.request_id

    async def flush(self, timeout: float | None = None) -> RecorderCounts:
        """Wait until all that was recorded before is settled, or `timeout` (seconds) has passed."""
        self._running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._delivery.wait_for(self._taken)
        return self.counts

    async def status(self) -> SpoolStatus:
        """What the spool holds."""
        self._running_loop()
        return await self._thread.call(self._thread.outbox.status)

    async def dead_letters(self) -> list[DeadLetter]:
        """What the service refused, in the order it was recorded."""
        self._running_loop()
        return await self._thread.call(self._thread.outbox.dead_letters)

    async def redrive(self, request_ids: Collection[str] | None = None) -> int:
        """Send dead letters again, all or those with these request ids; says how many. See Spool.redrive."""
        self._running_loop()
        revived = await self._thread.call(self._thread.outbox.redrive, request_ids)
        self._taken += revived
        self._delivery.wake()
        return revived

    async def discard(self, request_ids: Collection[str] | None = None) -> int:
        """Delete dead letters, all or those with these request ids, for good; says how many."""
        self._running_loop()
        discarded, size = await self._thread.call(self._thread.outbox.discard_sized, request_ids)
        self._room.release(discarded, size)
        return discarded

    async def close(self, timeout: float | None = None) -> RecorderCounts:
        """Take no more usage, deliver for at most `timeout` seconds (`close_timeout` where not given), and close.

        What is left on disk waits for the next recorder on the spool; `counts` and the log say how much it is. What is
        left in memory is lost: a ResourceWarning says so.
        """
        if self._is_closed:
            return self.counts
        self._running_loop()
        self._is_closed = True
        self._room.close()
        try:
            while self._writer is not None:
                await asyncio.shield(self._writer)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.close_timeout if timeout is None else timeout):
                    await self._delivery.wait_for(self._taken)
        finally:
            await asyncio.shield(self._shut_down())
        return self.counts

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the recorder belongs to. Raises SpoolForkedError, RuntimeError."""
        if self._delivering is None:
            raise RuntimeError("a recorder works inside its `async with` block")
        self._thread.outbox.check_process()
        if self._is_closed:
            raise RuntimeError("this recorder is closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise RuntimeError("this recorder is used in another event loop; make one recorder for each loop")
        return loop

    async def _write(self) -> None:
        """Many waiting calls, one transaction: what comes while one is under way goes together into the next."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_RECORDS], self._waiting[GROUP_RECORDS:]
                await self._write_group([waiting for waiting in group if self._is_wanted(waiting)])
        finally:
            self._writer = None

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        try:
            await self._thread.call(self._thread.outbox.append, [waiting.entry for waiting in group])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to each call of the group
            self._room.release(len(group), sum(waiting.size for waiting in group))
            for waiting in group:
                if not waiting.written.done():
                    waiting.written.set_exception(error)
            return
        self._taken += len(group)
        self._recorded += len(group)
        self._delivery.wake()
        for waiting in group:
            if not waiting.written.done():  # done already where the caller went away
                waiting.written.set_result(None)

    def _is_wanted(self, waiting: _Waiting) -> bool:
        """Whether the caller is still there; if not, give its room back."""
        if waiting.written.done():
            self._room.release(1, waiting.size)
            return False
        return True

    async def _shut_down(self) -> None:
        """Stop delivering, close the spool, and say what is left."""
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.wait([self._delivering])
        try:
            left = await self._thread.call(self._thread.outbox.status)
        finally:
            await self._thread.close()
        if not left.pending and not left.dead:
            return
        if self._options.spool is None:
            lost = f"{left.pending} records that were not delivered and {left.dead} that were refused are lost"
            warnings.warn(f"{lost}: they were in memory alone", ResourceWarning, stacklevel=1)
        else:
            _logger.warning(
                "%s holds %d pending records, %d dead letters", self._options.spool, left.pending, left.dead
            )
