"""Delivers a spool to the service: batch by batch, in order, for as long as it takes."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from billing_client._batches import UsageResult, batch_call, send_batch
from billing_client._calls import ApiCall
from billing_client._errors import (
    BillingError,
    PayloadTooLargeError,
    SpoolError,
    UnexpectedResponseError,
    ValidationError,
)
from billing_client._transport import Transport
from billing_client.contract.wire import printable
from billing_client.spooling.capacity import Capacity
from billing_client.spooling.dead_letters import (
    DeliveryOutcome,
    Settlement,
    damaged,
    error_of_kept,
    event_of,
    event_of_damaged,
    fault_of,
    has_unknown_customer,
    outcome_of_delivery,
    refusal,
)
from billing_client.spooling.events import AttemptEvent, RecorderEvent
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.outbox import Damaged, Outbox, Pending, Taken
from billing_client.spooling.passed_over import PassedOver
from billing_client.spooling.spool import decode_usage
from billing_client.spooling.unknown_customers import UnknownCustomers

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
LONGEST_WAIT_OF_A_FLUSH_SECONDS = 5.0
LONGEST_DEFERRAL_SECONDS = 300.0
LONGEST_RETRY_AFTER_SECONDS = 3_600.0  # a date far away may be a mistake, and nothing would be delivered until then
GROWTH = 20  # after so many successes in a row the full batch size is reached again

_logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Delivery:
    """Sends what a spool holds, one batch at a time, so in the order it was recorded.

    A batch that fails stays, and is sent again after a wait, without end; the wait grows to LONGEST_WAIT_SECONDS. Each
    failure halves the next batch, each success lets it grow, as TCP does (RFC 5681, section 3.1). So a service that
    comes back gets little at first, and a record that makes its batch fail is sent alone in the end.
    """

    def __init__(self, transport: Transport, outbox: Outbox, capacity: Capacity, options: RecorderOptions) -> None:
        self.settled: Counter[DeliveryOutcome] = Counter()
        self.to_settle = 0
        self._began = time.monotonic()
        self._transport = transport
        self._outbox = outbox
        self._capacity = capacity
        self._options = options
        self._records = options.batch_size
        self._longest_wait = FIRST_WAIT_SECONDS
        self._flushes = 0
        self._parts_calls = False
        self._appended = asyncio.Event()
        self._fresh = 0
        self._fresh_since = 0.0
        self._has_rest = True
        self._deferred = PassedOver(options.first_deferral)
        self._ahead: asyncio.Task[Taken] | None = None
        self._customers = UnknownCustomers(transport)
        self._progress, self._hurry = asyncio.Event(), asyncio.Event()

    @property
    def pending(self) -> int:
        """How many records are to be settled yet."""
        return self.to_settle - self.settled.total()

    def note_appended(self, records: int) -> None:
        """There is something new in the spool to send."""
        self.to_settle += records
        if self._fresh == 0:
            self._fresh_since = time.monotonic()
        self._fresh += records
        self._appended.set()

    def note_full(self) -> None:
        """A call is about to wait for room, so nothing lingers."""
        self._appended.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                try:
                    await self._deliver_next()
                except SpoolError as error:  # a full disk, for example
                    _logger.warning("nothing is delivered for now: %s", error)
                    await self._pause(self._next_wait())
                except Exception:  # a bug; what is in the spool stays there
                    _logger.exception("nothing is delivered for now")
                    await self._pause(self._next_wait())
        finally:
            with suppress(SpoolError):
                await self._drop_ahead()

    async def _deliver_next(self) -> None:
        await self._linger()
        self._appended.clear()
        self._fresh = 0
        batch, damaged_rows = await self._take()
        self._has_rest = self.pending > len(batch) + len(damaged_rows)
        if damaged_rows:
            self._note_damaged(damaged_rows)
        if batch:
            self._read_ahead(batch)
            await self._deliver(batch)
        elif not damaged_rows:
            await self._wait_for_more()

    async def _take(self) -> Taken:
        """The batch that was read ahead, or else the first in line."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return await ahead
        return await self._outbox.take(self._records, self._deferred.place(), not self._parts_calls)

    def _read_ahead(self, batch: Sequence[Pending]) -> None:
        """Read the next batch while this one is sent, if all goes well and there is a backlog: a third faster."""
        if len(batch) == self._options.batch_size and self._has_rest and self._deferred.place() == 0:
            self._ahead = asyncio.create_task(self._outbox.take(self._records, batch[-1].seq))

    async def _drop_ahead(self) -> None:
        """Do not send what was read ahead now: something before it is to be sent again."""
        if self._ahead is None:
            return
        batch, damaged_rows = await self._take()
        if damaged_rows:
            self._note_damaged(damaged_rows)
        if batch:
            await self._outbox.uncount_attempt(batch)

    async def _linger(self) -> None:
        """Let what comes slowly gather in one batch, unless there is more to send, or somebody waits for it."""
        while self._fresh and self._fresh < self._records and not (self._flushes or self._has_rest):
            if self._capacity.is_waited_for:
                return
            left = self._fresh_since + self._options.linger - time.monotonic()
            if left <= 0:
                return
            self._appended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._appended.wait()

    async def wait_for(self, settled: int) -> None:
        """Wait until so many records are settled. Meanwhile the waits between attempts are short."""
        self._flushes += 1
        self._hurry.set()
        self._deferred.look_again()
        self._appended.set()
        try:
            await self.wait_until_settled(settled)
        finally:
            self._flushes -= 1

    async def wait_until_settled(self, settled: int) -> None:
        """Wait until so many records are settled, however long the waits between attempts are."""
        while self.settled.total() < settled:
            self._progress.clear()
            await self._progress.wait()

    async def _deliver(self, batch: Sequence[Pending]) -> None:
        request_ids = [record.usage.request_id for record in batch]
        bodies = [record.usage.body for record in batch]
        call = batch_call(b",".join(bodies), batch[0].idempotency_key)
        try:
            results: Sequence[UsageResult] = await send_batch(self._transport, call, request_ids, bodies)
        except BillingError as error:
            fault = fault_of(batch[0]) if len(batch) == 1 and isinstance(error, UnexpectedResponseError) else ""
            if not fault and (len(batch) > 1 or not isinstance(error, PayloadTooLargeError | ValidationError)):
                await self._try_later(batch, error)
                return
            results = [damaged(fault) if fault else refusal(error)]
        await self._note_results(batch, results, call)

    async def _note_results(self, batch: Sequence[Pending], results: Sequence[UsageResult], call: ApiCall) -> None:
        settlements = [
            Settlement(
                record, result, outcome_of_delivery(record, result, self._options, time.monotonic() - self._began)
            )
            for record, result in zip(batch, results, strict=True)
        ]
        kept = [settlement for settlement in settlements if settlement.outcome == "kept"]
        if not kept:
            most = self._options.batch_size
            self._records = min(most, self._records + max(1, most // GROWTH))
            self._longest_wait = FIRST_WAIT_SECONDS
            self._parts_calls = False
        # What is stored is counted, even if the recorder closes.
        await asyncio.shield(self._settle(settlements, call))
        deferred = [settlement for settlement in settlements if settlement.outcome == "deferred"]
        if kept or deferred:
            await self._drop_ahead()
        if deferred and await self._create_customers(deferred):
            self._has_rest = True
        elif deferred:
            self._pass_over(deferred, batch[-1].seq if not kept else 0, call)
        elif self._deferred.place() == 0:
            self._deferred.forget()
        if kept:
            await self._try_later([each.record for each in kept], error_of_kept(kept[0].result, call))

    async def _create_customers(self, deferred: Sequence[Settlement]) -> bool:
        """Create the customers that are unknown, if that is wanted; whether some are there now."""
        if self._options.unknown_customer != "create":
            return False
        usages = [decode_usage(each.record.usage.body) for each in deferred if has_unknown_customer(each.result)]
        return bool(await self._customers.create(dict.fromkeys(usage.customer_id for usage in usages if usage)))

    def _note_damaged(self, rows: Sequence[Damaged]) -> None:
        _logger.warning("%d rows of the spool are no records, and are dead letters now", len(rows))
        self.settled["dead"] += len(rows)
        for row in rows:
            self._tell(event_of_damaged(row))
        self._progress.set()

    async def _settle(self, settlements: Sequence[Settlement], call: ApiCall) -> None:
        """Remove from the spool what is settled, count it, and report it."""
        done = [each.record for each in settlements if each.outcome in ("delivered", "duplicate")]
        dead = [(each.record, _encode(each.result.problem)) for each in settlements if each.outcome == "dead"]
        await self._outbox.settle(done, dead)
        self._capacity.release(len(done), sum(len(record.usage.body) for record in done))
        self.settled.update(each.outcome for each in settlements if each.outcome not in ("kept", "deferred"))
        self._report(settlements, call)
        self._progress.set()

    def _pass_over(self, deferred: Sequence[Settlement], place: int, call: ApiCall) -> None:
        """Leave records in line that the service refuses for now, and go on behind this place."""
        longest = LONGEST_WAIT_OF_A_FLUSH_SECONDS if self._flushes else LONGEST_DEFERRAL_SECONDS
        wait = self._deferred.pass_over(place, longest)
        error = error_of_kept(deferred[0].result, call)
        if has_unknown_customer(deferred[0].result):
            text = "%d records of customers that the service does not know are sent again in %.1f s; create them: %s"
        else:
            text = (
                "%d records are in the future by the service's clock, and sent again in %.1f s; compare the clocks: %s"
            )
        _logger.warning(text, len(deferred), wait, error)
        self._tell(AttemptEvent(records=len(deferred), attempts=deferred[0].record.attempts, error=error, wait=wait))

    async def _wait_for_more(self) -> None:
        """Wait until there is something new to send, or it is time for what was passed over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deferred.seconds_left()):
                await self._appended.wait()

    async def _try_later(self, batch: Sequence[Pending], error: BillingError) -> None:
        """Make the next batch smaller and wait. If the batch was only too large, do not wait."""
        await self._drop_ahead()
        self._records = max(1, len(batch) // 2)
        self._has_rest = True
        if isinstance(error, UnexpectedResponseError | PayloadTooLargeError | ValidationError):
            self._parts_calls = True  # what is in the batch may cause it
        if len(batch) == 1 and isinstance(error, UnexpectedResponseError):  # the record itself may cause it
            await self._outbox.put_last(batch[0])
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
        """Wait, unless a flush begins or has begun since the wait was chosen."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _report(self, settlements: Sequence[Settlement], call: ApiCall) -> None:
        """Log what the service did not take, and tell the hook about the attempt and its records."""
        refused = [
            printable(each.result.problem.detail)
            for each in settlements
            if each.outcome == "dead" and each.result.problem
        ]
        if refused:
            _logger.warning("%d records were refused and are dead letters now; the first: %s", len(refused), refused[0])
        unnamed = sum(each.outcome == "duplicate" and _has_no_event_id(each.record) for each in settlements)
        if unnamed:
            _logger.warning("%d records without an event id add nothing: equal usage is stored already", unnamed)
        if self._options.on_event is not None:
            self._tell(AttemptEvent(records=len(settlements), attempts=settlements[0].record.attempts))
            for settlement in settlements:
                event = event_of(settlement, call)
                if event is not None:
                    self._tell(event)

    def _tell(self, event: RecorderEvent) -> None:
        if self._options.on_event is None:
            return
        try:
            self._options.on_event(event)
        except Exception:
            _logger.exception("on_event failed for %r", event)


def _has_no_event_id(record: Pending) -> bool:
    usage = decode_usage(record.usage.body)
    return usage is not None and usage.event_id is None
