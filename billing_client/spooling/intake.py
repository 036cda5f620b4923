"""The way of usage from its callers to the disk: calls that wait at the same time share one transaction."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from billing_client._batches import BATCH_BYTES
from billing_client._encoding import EncodedUsage, encode_usage, invalid
from billing_client._errors import RecorderClosedError, ValidationError
from billing_client._records import Usage
from billing_client.contract.wire import FieldError
from billing_client.spooling.capacity import Capacity
from billing_client.spooling.delivery import Delivery
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.outbox import Outbox

T = TypeVar("T")

GROUP_RECORDS = 1_000  # a transaction ends after the call with which it reaches so many records
MOST_SOON = 10_000  # records taken without a caller that waits, and not yet on disk

_logger = logging.getLogger(__name__)


class _Call:
    """A call that waits until its usage is on disk; that of `record_soon` has nobody who waits for it."""

    __slots__ = ("failure", "idempotency_key", "is_settled", "is_soon", "size", "usages", "waiter")

    def __init__(self, usages: Sequence[EncodedUsage], idempotency_key: str | None, *, is_soon: bool = False) -> None:
        self.usages = usages
        self.idempotency_key = idempotency_key
        self.is_soon = is_soon
        self.size = sum(len(usage.body) for usage in usages)
        self.is_settled = False
        self.failure: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def settle(self, failure: BaseException | None) -> None:
        """The usage is on disk, or it failed."""
        self.is_settled, self.failure = True, failure
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def settled(self) -> None:
        """Wait for it, however often the caller is cancelled meanwhile; see `finish`. Raises the failure."""
        cancellation: asyncio.CancelledError | None = None
        while not self.is_settled:
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            _log_failure(self.failure)
            raise cancellation from self.failure
        if self.failure is not None:
            raise self.failure


async def finish(work: "asyncio.Future[T]") -> T:
    """Wait for work to its end, however often the caller is cancelled meanwhile. Then the cancellation is raised.

    Starlette, for one, cancels every wait of a handler whose client has gone, again and again, in `finally` too.
    """
    cancellation: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is None:
        return work.result()
    failure = None if work.cancelled() else work.exception()
    _log_failure(failure)
    raise cancellation from failure


def _log_failure(failure: BaseException | None) -> None:
    if failure is not None:
        _logger.error("a call of the recorder failed after its caller was cancelled: %s", failure)


class Intake:
    """Takes usage from callers, and writes it in the order of the calls."""

    def __init__(self, outbox: Outbox, capacity: Capacity, delivery: Delivery, options: RecorderOptions) -> None:
        self.recorded = 0
        self._outbox = outbox
        self._capacity = capacity
        self._delivery = delivery
        self._rewrite_seconds = options.rewrite_seconds
        self._unwritten: list[_Call] = []
        self._stuck: list[_Call] = []
        self._soon = 0
        self._writer: asyncio.Task[None] | None = None
        self._is_closed = False

    async def take(self, usages: Sequence[EncodedUsage], key: str | None, timeout: float) -> None:
        """Take the usage of one call; all of it is on disk when this returns, or nothing. It cannot be cancelled.

        Waits for room for at most `timeout` seconds. Raises SpoolError.
        """
        call = _Call(usages, key)
        if self._capacity.reserve_now(len(usages), call.size):
            self._queue(call)
            await call.settled()
        else:
            await finish(asyncio.create_task(self._take_later(call, timeout)))

    async def _take_later(self, call: _Call, timeout: float) -> None:
        self._delivery.note_full()
        await self._capacity.reserve(len(call.usages), call.size, timeout)
        if self._is_closed:  # while this call waited
            self._capacity.release(len(call.usages), call.size)
            raise RecorderClosedError("the recorder was closed; this use was not recorded")
        self._queue(call)
        await call.settled()

    def take_soon(self, usage: EncodedUsage, key: str | None) -> None:
        """Take one use, to be written soon. Raises SpoolFullError."""
        call = _Call((usage,), key, is_soon=True)
        if self._soon >= MOST_SOON or not self._capacity.reserve_now(1, call.size):
            raise self._capacity.full()
        self._soon += 1
        self._queue(call)

    async def close(self) -> None:
        """Send away who waits for room, and write the rest."""
        self._is_closed = True
        self._capacity.close()
        self._write_again()
        while self._writer is not None:
            await finish(self._writer)

    def _queue(self, call: _Call) -> None:
        self._unwritten.append(call)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write the usage of waiting calls, many in one transaction. Calls that come meanwhile share the next.

        It cannot be cancelled while calls wait, as by the end of `asyncio.run`: they would wait for ever.
        """
        cancellation: asyncio.CancelledError | None = None
        try:
            while self._unwritten:
                calls = self._next_group()
                failure: BaseException | None = None
                try:
                    await finish(self._outbox.append([(call.usages, call.idempotency_key) for call in calls]))
                except asyncio.CancelledError as error:
                    cancellation, failure = error, error.__cause__
                except Exception as error:  # noqa: BLE001 - each call of the group raises it
                    failure = error
                self._settle(calls, failure)
        finally:
            self._writer = None
        if cancellation is not None:
            raise cancellation

    def _next_group(self) -> list[_Call]:
        number = records = 0
        while number < len(self._unwritten) and records < GROUP_RECORDS:
            records += len(self._unwritten[number].usages)
            number += 1
        group, self._unwritten = self._unwritten[:number], self._unwritten[number:]
        return group

    def _settle(self, calls: Sequence[_Call], failure: BaseException | None) -> None:
        """Tell the callers. What nobody waits for and failed is written again until the recorder is closed."""
        if failure is None:
            records = sum(len(call.usages) for call in calls)
            self.recorded += records
            self._delivery.note_appended(records)
        stuck: list[_Call] = []
        for call in calls:
            if call.is_soon and failure is not None:
                stuck.append(call)
                continue
            self._soon -= call.is_soon
            if failure is not None:
                self._capacity.release(len(call.usages), call.size)
            call.settle(failure)
        if stuck:
            self._keep(stuck, failure)

    def _keep(self, stuck: Sequence[_Call], failure: BaseException | None) -> None:
        if self._is_closed:
            _logger.error("%d uses that record_soon() took are lost; they cannot be written: %s", len(stuck), failure)
            return
        _logger.warning("%d uses that record_soon() took are in memory only for now: %s", len(stuck), failure)
        if not self._stuck:
            asyncio.get_running_loop().call_later(self._rewrite_seconds, self._write_again)
        self._stuck += stuck

    def _write_again(self) -> None:
        stuck, self._stuck = self._stuck, []
        for call in stuck:
            self._queue(call)


def encoded_usage(usage: Usage | None, fields: dict[str, Any]) -> EncodedUsage:
    """The use of a call, given as such or by its fields; it occurs now if it does not say when."""
    if usage is None:
        usage = Usage(**fields)
    elif fields:
        raise TypeError("record() takes a Usage or its fields, not both")
    if usage.occurred_at is None:
        usage = msgspec.structs.replace(usage, occurred_at=datetime.now(UTC))
    return encode_usage(usage)


def encoded_usages(usages: Iterable[Usage], most: int) -> list[EncodedUsage]:
    """The uses of a call. Raises ValidationError, which names the faults of all."""
    encoded: list[EncodedUsage] = []
    errors: list[FieldError] = []
    for number, usage in enumerate(usages):
        try:
            encoded.append(encoded_usage(usage, {}))
        except ValidationError as error:
            errors += [FieldError(pointer=f"/{number}{each.pointer}", message=each.message) for each in error.errors]
    size = sum(len(each.body) for each in encoded)
    if len(encoded) > most or size > BATCH_BYTES:
        message = f"{len(encoded)} uses of {size} bytes are more than a batch of {most} uses, {BATCH_BYTES} bytes"
        errors.append(FieldError(pointer="", message=message))
    if errors:
        raise invalid(errors)
    return encoded
