"""The recorder: a use is safe when `record()` returns, and is delivered in the background."""

import asyncio
import logging
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload

import msgspec
from msgspec import Struct

from billing_client._encoding import EncodedUsage, checked_key, encode_usage
from billing_client._errors import ConfigurationError, SpoolForkedError
from billing_client._records import DecimalLike, Usage
from billing_client._transport import Transport
from billing_client.contract.wire import MAX_BATCH_RECORDS
from billing_client.spooling.capacity import Capacity
from billing_client.spooling.delivery import Delivery
from billing_client.spooling.events import RecorderEvent
from billing_client.spooling.outbox import Outbox
from billing_client.spooling.spool import DeadLetter, SpoolStatus

GROUP_RECORDS = 1_000  # at most so many waiting calls share one transaction
LEAST_BYTES = 4_096  # more than any one record has

_logger = logging.getLogger(__name__)


class _Unwritten(NamedTuple):
    """A call of `record()` that waits until its use is on disk."""

    usage: EncodedUsage
    idempotency_key: str | None
    written: asyncio.Future[None]


class RecorderOptions(Struct, frozen=True, kw_only=True):
    """See BillingSystemClient.recorder. Raises ConfigurationError."""

    spool: Path | None
    on_event: Callable[[RecorderEvent], None] | None
    on_full: Literal["wait", "raise"]
    max_records: int
    max_bytes: int
    batch_size: int
    close_timeout: float

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH_RECORDS:
            raise ConfigurationError(f"batch_size is {self.batch_size!r}, but must be 1 to {MAX_BATCH_RECORDS}")
        if self.on_full not in ("wait", "raise"):
            raise ConfigurationError(f"on_full is {self.on_full!r}, but must be 'wait' or 'raise'")
        for name, least in (("max_records", 1), ("max_bytes", LEAST_BYTES), ("close_timeout", 0)):
            if not getattr(self, name) >= least:  # NaN is not
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}, but must be at least {least}")


class RecorderCounts(Struct, frozen=True, kw_only=True):
    """What a recorder did since it was opened.

    Attributes:
        recorded: How many uses `record()` took.
        delivered: How many records are stored by this recorder, those that the spool already held included.
        duplicates: How many had been stored by another call before, and added nothing.
        dead: How many the service refused.
        pending: How many are still to be delivered.
    """

    recorded: int
    delivered: int
    duplicates: int
    dead: int
    pending: int


class UsageRecorder:
    """Keeps usage safe until the service has it. `BillingSystemClient.recorder` makes one.

    An async context manager, for one event loop of one process.

    Raises:
        SpoolError: The spool cannot be used. Entering the block and every method can raise it.
        RuntimeError: The recorder is used outside its `async with` block, or in another event loop.
    """

    def __init__(self, transport: Transport, options: RecorderOptions) -> None:
        self._options = options
        self._capacity = Capacity(options.max_records, options.max_bytes)
        self._outbox = Outbox(options.spool, options.batch_size)
        self._delivery = Delivery(transport, self._outbox, self._capacity, options.batch_size, options.on_event)
        self._delivering: asyncio.Task[None] | None = None
        self._unwritten: list[_Unwritten] = []
        self._writer: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._is_closed = False
        self._to_settle = self._recorded = 0

    async def __aenter__(self) -> Self:
        """Open the spool, and begin to deliver what it holds."""
        if self._loop is not None:
            raise RuntimeError("a recorder is opened once; make another")
        self._loop = asyncio.get_running_loop()
        held = await self._outbox.open()
        self._capacity.occupy(held.pending + held.dead, held.bytes)
        self._to_settle = held.pending
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
            pending=self._to_settle - settled.total(),
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
        dimensions: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> str: ...

    async def record(self, usage: Usage | None = None, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Record one use. When this returns, the use is on disk and will be delivered.

        A call that is cancelled may have recorded the use.

        Args:
            usage: The use; or give its fields, as `Usage` has them. Without `occurred_at` it occurs now.
            idempotency_key: The name of the call, 1 to 255 visible ASCII characters. Give your own to repeat a call
                that was cut off; such a record is sent in a batch of its own. By default the recorder chooses one.

        Returns:
            The request id of the use.

        Raises:
            ValidationError: The use is not valid.
            SpoolFullError: The spool holds as much as it may, and `on_full` is "raise".
            SpoolDiskFullError: The disk is full. Nothing was recorded.
        """
        loop = self._check_usable()
        if usage is None:
            usage = Usage(**fields)
        elif fields:
            raise TypeError("record() takes a Usage or its fields, not both")
        if usage.occurred_at is None:
            usage = msgspec.structs.replace(usage, occurred_at=datetime.now(UTC))
        key = None if idempotency_key is None else checked_key(idempotency_key)
        encoded = encode_usage(usage)
        await self._capacity.reserve(len(encoded.body), self._options.on_full == "wait")
        if self._is_closed:  # while this call waited
            raise RuntimeError("this recorder was closed")
        call = _Unwritten(encoded, key, loop.create_future())
        self._unwritten.append(call)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await call.written
        return encoded.request_id

    async def flush(self, timeout: float | None = None) -> RecorderCounts:
        """Wait until everything that was recorded before is settled: delivered, a duplicate, or dead.

        Args:
            timeout: Wait at most so many seconds. None means without end.

        Returns:
            The counts so far. `pending` says whether something is left.
        """
        self._check_usable()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._delivery.wait_for(self._to_settle)
        return self.counts

    async def status(self) -> SpoolStatus:
        """Count what the spool holds."""
        self._check_usable()
        return await self._outbox.status()

    async def dead_letters(self) -> list[DeadLetter]:
        """What the service refused, in the order it was recorded."""
        self._check_usable()
        return await self._outbox.dead_letters()

    async def redrive(self, request_ids: Collection[str] | None = None) -> int:
        """Send dead letters again. See `Spool.redrive`.

        Args:
            request_ids: Which dead letters. None means all.

        Returns:
            How many were put back in line.
        """
        self._check_usable()
        redriven = await self._outbox.redrive(request_ids)
        self._to_settle += redriven
        self._delivery.appended.set()
        return redriven

    async def discard(self, request_ids: Collection[str] | None = None) -> int:
        """Delete dead letters for good.

        Args:
            request_ids: Which dead letters. None means all.

        Returns:
            How many were deleted.
        """
        self._check_usable()
        discarded, size = await self._outbox.discard(request_ids)
        self._capacity.release(discarded, size)
        return discarded

    async def close(self, timeout: float | None = None) -> RecorderCounts:
        """Take no more usage, deliver what there is, and close the spool. The end of the block calls it.

        What is left on disk waits for the next recorder on the spool; the counts and the log say how much that is.
        What is left in memory is lost, and a ResourceWarning says so.

        Args:
            timeout: Deliver for at most so many seconds. None means `close_timeout`.

        Returns:
            The counts at the end.
        """
        if self._is_closed:
            return self.counts
        self._check_usable()
        self._is_closed = True
        self._capacity.close()
        try:
            while self._writer is not None:
                await asyncio.shield(self._writer)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.close_timeout if timeout is None else timeout):
                    await self._delivery.wait_for(self._to_settle)
        finally:
            await asyncio.shield(self._shut_down())
        return self.counts

    def _check_usable(self) -> asyncio.AbstractEventLoop:
        """The loop that the recorder belongs to. Raises SpoolForkedError, RuntimeError."""
        if self._delivering is None:
            raise RuntimeError("a recorder works inside its `async with` block")
        if os.getpid() != self._pid:
            raise SpoolForkedError(
                f"the recorder belongs to process {self._pid}; make another, with a spool of its own, "
                f"in process {os.getpid()}"
            )
        if self._is_closed:
            raise RuntimeError("this recorder is closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise RuntimeError("this recorder is used in another event loop; make one recorder for each loop")
        return loop

    async def _write(self) -> None:
        """Write the uses of waiting calls, many in one transaction. Calls that come meanwhile share the next."""
        try:
            while self._unwritten:
                calls, self._unwritten = self._unwritten[:GROUP_RECORDS], self._unwritten[GROUP_RECORDS:]
                cancelled = [call for call in calls if call.written.done()]
                self._capacity.release(len(cancelled), sum(len(call.usage.body) for call in cancelled))
                await self._write_group([call for call in calls if not call.written.done()])
        finally:
            self._writer = None

    async def _write_group(self, calls: list[_Unwritten]) -> None:
        failure: Exception | None = None
        try:
            await self._outbox.append([(call.usage, call.idempotency_key) for call in calls])
            self._to_settle += len(calls)
            self._recorded += len(calls)
            self._delivery.appended.set()
        except Exception as error:  # noqa: BLE001 - each call of the group raises it
            self._capacity.release(len(calls), sum(len(call.usage.body) for call in calls))
            failure = error
        for call in calls:
            if call.written.done():  # cancelled meanwhile
                continue
            if failure is None:
                call.written.set_result(None)
            else:
                call.written.set_exception(failure)

    async def _shut_down(self) -> None:
        """Stop delivering, close the spool, and say what is left."""
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.wait([self._delivering])
        try:
            left = await self._outbox.status()
        finally:
            await self._outbox.close()
        if not left.pending and not left.dead:
            return
        if self._options.spool is None:
            lost = f"{left.pending} records that were not delivered and {left.dead} that were refused are lost"
            warnings.warn(f"{lost}: they were in memory only", ResourceWarning, stacklevel=1)
        else:
            _logger.warning(
                "%s holds %d pending records, %d dead letters", self._options.spool, left.pending, left.dead
            )
