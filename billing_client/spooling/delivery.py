"""From the spool to the service: batch by batch, in order, for as long as it takes."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import msgspec

from billing_client._batches import Result, batch_call, send_batch
from billing_client._errors import (
    BillingError,
    PayloadTooLargeError,
    SpoolError,
    UnexpectedResponseError,
    ValidationError,
)
from billing_client._transport import Call, Transport
from billing_client.spooling.capacity import Room
from billing_client.spooling.events import AttemptEvent, RecorderEvent
from billing_client.spooling.outbox import Pending
from billing_client.spooling.spool import usage_of
from billing_client.spooling.spool_thread import SpoolThread
from billing_client.spooling.verdicts import Verdict, error_of_kept, event_of, refusal, verdict_of

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
LONGEST_WAIT_OF_A_FLUSH_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 86_400.0
GROWTH = 20  # a full batch is reached again after so many that went well

_logger = logging.getLogger(__name__)
Judged: TypeAlias = tuple[Pending, Verdict, Result]
_encode = msgspec.json.Encoder().encode


class Delivery:
    """Sends what a spool holds, one batch at a time, so in the order it was recorded.

    A batch that fails stays, and is sent again after a wait that grows up to LONGEST_WAIT_SECONDS, without end. Each
    failure halves the next batch, each success lets it grow (as TCP does; RFC 5681, section 3.1): a service that comes
    back meets little at first, and what makes a batch fail is at last alone.
    """

    def __init__(
        self,
        transport: Transport,
        thread: SpoolThread,
        room: Room,
        batch_size: int,
        on_event: Callable[[RecorderEvent], None] | None,
    ) -> None:
        self.settled: Counter[Verdict] = Counter()
        self._transport = transport
        self._thread = thread
        self._room = room
        self._batch_size = self._records = batch_size
        self._on_event = on_event
        self._longest_wait = FIRST_WAIT_SECONDS
        self._flushes = 0
        self._appended, self._progress, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def wake(self) -> None:
        """Say that there is something to send."""
        self._appended.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._appended.clear()
            try:
                batch = await self._thread.call(self._thread.outbox.take, self._records)
                if batch:
                    await self._deliver(batch)
                else:
                    await self._appended.wait()
            except SpoolError as error:  # a full disk, say
                _logger.warning("nothing is delivered for now: %s", error)
                await self._pause(self._next_wait())
            except Exception:  # a fault; what is in the spool stays there
                _logger.exception("nothing is delivered for now")
                await self._pause(self._next_wait())

    async def wait_for(self, settled: int) -> None:
        """Wait until so many records are settled, and let no wait between attempts be long meanwhile."""
        self._flushes += 1
        self._hurry.set()
        try:
            while self.settled.total() < settled:
                self._progress.clear()
                await self._progress.wait()
        finally:
            self._flushes -= 1

    async def _deliver(self, batch: Sequence[Pending]) -> None:
        call = batch_call((record.body for record in batch), batch[0].idempotency_key)
        try:
            results = await self._send(call, batch)
        except BillingError as error:
            await self._try_later(batch, error)
            return
        verdicts = [verdict_of(record, result) for record, result in zip(batch, results, strict=True)]
        judged = list(zip(batch, verdicts, results, strict=True))
        kept = [(record, result) for record, verdict, result in judged if verdict == "kept"]
        if not kept:
            self._records = min(self._batch_size, self._records + max(1, self._batch_size // GROWTH))
            self._longest_wait = FIRST_WAIT_SECONDS
        await asyncio.shield(self._settle(judged, call))  # what is stored is counted, though the recorder closes
        if kept:
            await self._try_later([record for record, _ in kept], error_of_kept(kept[0][1], call))

    async def _send(self, call: Call, batch: Sequence[Pending]) -> Sequence[Result]:
        try:
            return await send_batch(self._transport, call, len(batch))
        except (PayloadTooLargeError, ValidationError) as error:
            if len(batch) > 1:
                raise
            return [refusal(error)]

    async def _settle(self, judged: Sequence[Judged], call: Call) -> None:
        """Take off the spool what is settled, count it, and report it."""
        done = [record for record, verdict, _ in judged if verdict in ("delivered", "duplicate")]
        dead = [(record, _encode(result.problem)) for record, verdict, result in judged if verdict == "dead"]
        await self._thread.call(self._thread.outbox.settle, done, dead)
        self._room.release(len(done), sum(len(record.body) for record in done))
        self.settled.update(verdict for _, verdict, _ in judged if verdict != "kept")
        self._report(judged, call)
        self._progress.set()

    async def _try_later(self, batch: Sequence[Pending], error: BillingError) -> None:
        """Make the next batch smaller, and wait; not where smaller is all that was asked for."""
        self._records = max(1, len(batch) // 2)
        if len(batch) == 1 and isinstance(error, UnexpectedResponseError):  # a fault that it alone may cause
            await self._thread.call(self._thread.outbox.put_last, batch[0])
        is_refused = isinstance(error, PayloadTooLargeError | ValidationError)
        wait = 0.0 if is_refused else self._next_wait()
        least = min(error.retry_after, LONGEST_RETRY_AFTER_SECONDS)
        _logger.warning("%d records are sent again in %.1f s: %s", len(batch), least + wait, error)
        self._tell(AttemptEvent(records=len(batch), attempts=batch[0].attempts, error=error, wait=least + wait))
        await asyncio.sleep(least)
        await self._pause(wait)

    def _next_wait(self) -> float:
        """Seconds to wait, with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015)."""
        self._hurry.clear()
        longest = self._longest_wait
        self._longest_wait = min(longest * 2, LONGEST_WAIT_SECONDS)
        if self._flushes:
            longest = min(longest, LONGEST_WAIT_OF_A_FLUSH_SECONDS)
        return random.uniform(0.0, longest)  # noqa: S311 - spreads load, keeps no secret

    async def _pause(self, seconds: float) -> None:
        """Wait, unless a flush has begun since the wait was chosen, or does so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _report(self, judged: Sequence[Judged], call: Call) -> None:
        """Tell the hook of an attempt and its records, and the log of those that the service did not take."""
        dead = [result.problem.detail for _, verdict, result in judged if verdict == "dead" and result.problem]
        if dead:
            _logger.warning("%d records were refused and are dead letters now; the first: %s", len(dead), dead[0])
        unnamed = [
            record for record, verdict, _ in judged if verdict == "duplicate" and usage_of(record.body).event_id is None
        ]
        if unnamed:
            _logger.warning("%d records without an event id count for nothing: equal usage is stored", len(unnamed))
        self._tell(AttemptEvent(records=len(judged), attempts=judged[0][0].attempts))
        if self._on_event is not None:
            for record, verdict, result in judged:
                event = event_of(record, verdict, result, call)
                if event is not None:
                    self._tell(event)

    def _tell(self, event: RecorderEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            _logger.exception("on_event failed for %r", event)
