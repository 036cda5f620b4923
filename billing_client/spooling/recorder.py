"""The recorder: a use is safe when `record()` returns, and is delivered in the background."""

import asyncio
import logging
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self, overload

from msgspec import Struct

from billing_client._encoding import checked_key
from billing_client._errors import RecorderClosedError, SpoolForkedError
from billing_client._records import DecimalLike, Usage
from billing_client._transport import Transport
from billing_client.spooling.adoption import Adopter
from billing_client.spooling.capacity import Capacity
from billing_client.spooling.delivery import Delivery
from billing_client.spooling.file_systems import warn_of_file_system
from billing_client.spooling.intake import Intake, encoded_usage, encoded_usages, finish
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.outbox import Outbox
from billing_client.spooling.spool import DeadLetter, SpoolStatus
from billing_client.spooling.spool_file import SpoolFile
from billing_client.spooling.spool_folder import open_own

_logger = logging.getLogger(__name__)


class RecorderCounts(Struct, frozen=True, kw_only=True):
    """What a recorder did since it was opened.

    Attributes:
        recorded: How many uses `record()` took.
        delivered: How many records are stored by this recorder, those that the spool already held included, and those
            that dead processes left in its folder.
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
        self._transport = transport
        self._capacity = Capacity(options.max_records, options.max_bytes)
        self._outbox = Outbox(self._open_file, options)
        self._delivery = Delivery(transport, self._outbox, self._capacity, options)
        self._intake = Intake(self._outbox, self._capacity, self._delivery, options)
        self._delivering: asyncio.Task[None] | None = None
        self._adopter: Adopter | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        """Open the spool, and begin to deliver what it holds."""
        if self._loop is not None:
            raise RuntimeError("a recorder is opened once; make another")
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()  # it may have been made before a fork
        held = await self._outbox.open()
        self._capacity.occupy(held.pending + held.dead, held.bytes)
        self._delivery.to_settle = held.pending
        self._delivering = asyncio.create_task(self._delivery.run())
        own = self._outbox.file.path
        if self._options.spool_dir is not None and own is not None:
            self._adopter = Adopter(self._transport, own, self._options)
            self._adopting = asyncio.create_task(self._adopter.run())
        return self

    def _open_file(self) -> SpoolFile:
        if self._options.spool_dir is not None:
            file = open_own(self._options.spool_dir)
        else:
            file = SpoolFile(self._options.spool, create=True, read_only=False)
        if file.path is not None:
            warn_of_file_system(file.path)
        return file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def counts(self) -> RecorderCounts:
        """What was done so far, and what is left."""
        deliveries = self._deliveries()
        settled = sum((delivery.settled for delivery in deliveries), self._adopter.done if self._adopter else Counter())
        return RecorderCounts(
            recorded=self._intake.recorded,
            delivered=settled["delivered"],
            duplicates=settled["duplicate"],
            dead=settled["dead"],
            pending=sum(delivery.pending for delivery in deliveries),
        )

    @overload
    async def record(
        self, usage: Usage, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> str: ...

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
        timeout: float | None = None,
    ) -> str: ...

    async def record(
        self,
        usage: Usage | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> str:
        """Record one use. When this returns, the use is on disk and will be delivered.

        A call that has begun is finished, whatever happens to its caller: if the task is cancelled meanwhile,
        CancelledError is raised once the use is on disk. So a handler whose client hangs up records all the same.

        Args:
            usage: The use; or give its fields, as `Usage` has them. Without `occurred_at` it occurs now.
            idempotency_key: The name of the call, 1 to 255 visible ASCII characters. Give your own to repeat a call
                that was cut off; such a record is sent in a batch of its own. By default the recorder chooses one.
            timeout: How many seconds to wait for room if the spool is full. By default the `full_timeout` of the
                recorder; 0 if its `on_full` is "raise".

        Returns:
            The request id of the use.

        Raises:
            ValidationError: The use is not valid.
            SpoolFullError: The spool holds as much as it may, and there was no room in time.
            SpoolDiskFullError: The disk is full. Nothing was recorded.
            RecorderClosedError: The recorder was closed before, or while the call waited for room.
        """
        self._check_usable()
        encoded = encoded_usage(usage, fields)
        key = None if idempotency_key is None else checked_key(idempotency_key)
        await self._intake.take((encoded,), key, self._patience(timeout))
        return encoded.request_id

    async def record_many(
        self, usages: Iterable[Usage], *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> list[str]:
        """Record several uses as one: all of them are on disk when this returns, or none is. They are sent together.

        For what belongs together, such as the input and output tokens of one call. A batch that holds them is split
        only if the service refuses it as a whole, and if two of them are the same usage. As `record`, it is finished
        whatever happens to its caller.

        Args:
            usages: The uses, as many as a batch holds at most (`batch_size`, and 4 MiB). Those without `occurred_at`
                occur now.
            idempotency_key: As for `record`; the uses share it.
            timeout: As for `record`.

        Returns:
            The request ids, in order.

        Raises:
            ValidationError: A use is not valid, or they are more than a batch holds. Each fault has the place of its
                use in its pointer.
            SpoolFullError: The spool holds as much as it may, and there was no room in time.
            SpoolDiskFullError: The disk is full. Nothing was recorded.
            RecorderClosedError: The recorder was closed before, or while the call waited for room.
        """
        self._check_usable()
        encoded = encoded_usages(usages, self._options.batch_size)
        key = None if idempotency_key is None else checked_key(idempotency_key)
        if encoded:
            await self._intake.take(encoded, key, self._patience(timeout))
        return [each.request_id for each in encoded]

    @overload
    def record_soon(self, usage: Usage, *, idempotency_key: str | None = None) -> str: ...

    @overload
    def record_soon(
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

    def record_soon(self, usage: Usage | None = None, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Take one use without waiting: it is written to disk a moment later, with what else is waiting.

        For code that cannot await. A process that is killed in that moment loses the use; `record` does not. If the
        disk takes nothing, the use stays in memory and is written once it does. Closing the recorder writes all of it.

        Args:
            usage: The use; or give its fields, as `Usage` has them. Without `occurred_at` it occurs now.
            idempotency_key: As for `record`.

        Returns:
            The request id of the use.

        Raises:
            ValidationError: The use is not valid.
            SpoolFullError: The spool holds as much as it may, or 10,000 uses that were taken this way are not on disk
                yet.
            RecorderClosedError: The recorder was closed before.
        """
        self._check_usable()
        encoded = encoded_usage(usage, fields)
        self._intake.take_soon(encoded, None if idempotency_key is None else checked_key(idempotency_key))
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
                await self._settle_all()
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
        self._delivery.note_appended(redriven)
        return redriven

    async def resend(self, since: datetime) -> int:
        """Send what was delivered again, to a service that lost it. See `Spool.resend`.

        Args:
            since: What was delivered then or later, by the clock of this machine; with a time zone.

        Returns:
            How many records were put back in line: of those that `keep_delivered` kept in this recorder's own file.
        """
        self._check_usable()
        resent, size = await self._outbox.resend(since)
        self._capacity.occupy(resent, size)
        self._delivery.note_appended(resent)
        return resent

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
        try:
            await self._intake.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.close_timeout if timeout is None else timeout):
                    await self._settle_all()
        finally:
            await finish(asyncio.create_task(self._shut_down()))
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
            raise RecorderClosedError("this recorder is closed; make another")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise RuntimeError("this recorder is used in another event loop; make one recorder for each loop")
        return loop

    def _deliveries(self) -> list[Delivery]:
        """That of its own spool, and those of spools that dead processes left."""
        return [self._delivery, *(self._adopter.deliveries if self._adopter else ())]

    async def _settle_all(self) -> None:
        """Wait until everything that the spools hold now is settled."""
        await asyncio.gather(*(each.wait_for(each.to_settle) for each in self._deliveries()))

    def _patience(self, timeout: float | None) -> float:
        """For how many seconds a call waits for room."""
        if timeout is not None:
            return timeout
        return self._options.full_timeout if self._options.on_full == "wait" else 0.0

    async def _shut_down(self) -> None:
        """Stop delivering, close the spool, and say what is left."""
        tasks = [task for task in (self._delivering, self._adopting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        try:
            left = await self._outbox.status()
        finally:
            await self._outbox.close(remove_if_empty=self._options.spool_dir is not None)
        if not left.pending and not left.dead:
            return
        if self._outbox.file.path is None:
            lost = f"{left.pending} records that were not delivered and {left.dead} that were refused are lost"
            warnings.warn(f"{lost}: they were in memory only", ResourceWarning, stacklevel=1)
        else:
            _logger.warning("%s holds %d pending records, %d dead letters", self._outbox.file, left.pending, left.dead)
