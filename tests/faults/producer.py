"""A producer: a process that reports made-up usage, journals what it means and what it is told, and may be killed.

Started again on the same journal it goes on: what is in doubt is sent once more, with the same keys and event ids.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client import (
    BillingError,
    BillingSystemClient,
    DeadEvent,
    DeliveredEvent,
    DuplicateEvent,
    DuplicateRecordError,
    RateLimitedError,
    RecorderEvent,
    TransportError,
    UnavailableError,
    Usage,
    UsageRecord,
)
from tests.faults.journal import Acknowledged, Doubted, Intended, Journal, Kept, Refused
from tests.faults.planted import ForgetfulClient
from tests.faults.usages import made_up_line, number_of

Kind = Literal["single", "batch", "spool"]
PASSES = (TransportError, UnavailableError, RateLimitedError)  # the outcome is unknown, or nothing was done: again
GROUP = {"single": 32, "batch": 250, "spool": 250}
CALL_SECONDS = 5.0  # the deadline of a call: short, so that it is met now and then


class Task(Struct, frozen=True):
    """What a producer is to do; a file of it, so that a restart needs no more. `index` tells it from the others.

    `keep_delivered` is the option of a recorder.
    """

    index: int
    kind: Kind
    seed: int
    records: int
    base_url: str
    folder: str
    planted: bool = False
    keep_delivered: str | None = None

    @property
    def spool(self) -> Path:
        """The file of a recorder."""
        return self.journal.with_suffix(".spool")

    @property
    def journal(self) -> Path:
        return Path(self.folder) / f"producer-{self.index}.journal"

    @property
    def allowance(self) -> Path:
        """The file that holds how many records may be reported by now."""
        return Path(self.folder) / f"producer-{self.index}.allowance"


class Producer:
    """What all kinds share: which reports come next, and what is known of each. `open` is what is left to report."""

    def __init__(self, task: Task, client: BillingSystemClient) -> None:
        self.task = task
        self.client = client
        self._journal = Journal(task.journal)
        self._open: dict[int, Intended] = {}
        self._next = 0
        for entry in self._journal.entries:
            match entry:
                case Intended():
                    self._open[entry.number] = entry
                    self._next = entry.number + 1
                case Acknowledged() | Refused():
                    self._open.pop(entry.number, None)
                case Kept():
                    self._close(entry.numbers)
        self._journal.entries.clear()
        self.doubt("the producer was started")

    async def groups(self) -> AsyncIterator[list[Intended]]:
        """What to report, each group journaled before it is given, and given again while any of it is open."""
        size = GROUP[self.task.kind]
        while self._open or self._next < self.task.records:
            if self._open:
                yield list(self._open.values())[:size]
                continue
            allowed = int(self.task.allowance.read_text())
            numbers = range(self._next, min(allowed, self._next + size))
            if not numbers:
                await asyncio.sleep(0.02)
                continue
            intended = [self._intend(number) for number in numbers]
            self._journal.write(intended)
            self._open |= {each.number: each for each in intended}
            self._next = numbers.stop

    def _intend(self, number: int) -> Intended:
        key = str(uuid4()) if self.task.kind == "single" else None
        return Intended(number, made_up_line(self.task.seed, self.task.index, number), key)

    def _close(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._open.pop(number, None)

    def acknowledge(self, told: Sequence[Acknowledged]) -> None:
        self._journal.write(told)
        self._close(each.number for each in told)

    def keep(self, numbers: list[int]) -> None:
        self._journal.write([Kept(numbers)])
        self._close(numbers)

    def refuse(self, number: int, error: object) -> None:
        """Give a report up: the check will say so."""
        self._journal.write([Refused(number, f"{type(error).__name__}: {error}")])
        self._close([number])

    def doubt(self, why: object) -> None:
        self._journal.write([Doubted(str(why))])


def acknowledged(number: int, record: UsageRecord) -> Acknowledged:
    outcome = record.outcome or "recorded"
    return Acknowledged(number, outcome, record.request_id, record.units_consumed, record.price_per_unit, record.amount)


async def report_singly(producer: Producer) -> None:
    """Report by `record_usage`, many at once; a call whose outcome is unknown is repeated with its own key."""

    async def report(intended: Intended) -> Acknowledged | None:
        try:
            record = await producer.client.record_usage(
                **msgspec.structs.asdict(intended.line.usage()), idempotency_key=intended.key
            )
        except DuplicateRecordError as error:
            return acknowledged(intended.number, error.existing)
        except PASSES as error:
            producer.doubt(error)
            return None
        except BillingError as error:
            producer.refuse(intended.number, error)
            return None
        return acknowledged(intended.number, record)

    async for group in producer.groups():
        told = await asyncio.gather(*(report(intended) for intended in group))
        producer.acknowledge([each for each in told if each is not None])


async def report_in_batches(producer: Producer) -> None:
    """Report by `record_usages`; after a batch whose outcome is unknown its records are sent in another."""
    async for group in producer.groups():
        numbers = iter(group)
        told = []
        try:
            usages = [intended.line.usage() for intended in group]
            async for outcome in producer.client.record_usages(usages, batch_size=GROUP["batch"]):
                number = next(numbers).number
                if outcome.record is None or outcome.outcome == "conflict":
                    producer.refuse(number, outcome.error)
                else:
                    told.append(acknowledged(number, outcome.record))
        except PASSES as error:
            producer.doubt(error)
        except BillingError as error:
            producer.refuse(group[0].number, error)
        producer.acknowledge(told)


async def report_through_a_spool(producer: Producer) -> None:
    """Report by a durable recorder: what it keeps it owes, so only what it did not say that it keeps is given again."""
    told: list[Acknowledged] = []

    def note(event: RecorderEvent) -> None:
        match event:
            case DeliveredEvent():
                told.append(acknowledged(number_of(event.usage), event.record))
            case DuplicateEvent():
                record = msgspec.structs.replace(event.record, outcome="duplicate")
                told.append(acknowledged(number_of(event.usage), record))
            case DeadEvent(usage=Usage() as usage):
                producer.refuse(number_of(usage), event.error)

    def journal_what_was_told() -> None:
        producer.acknowledge(told)
        told.clear()

    task = producer.task
    async with producer.client.recorder(
        spool=task.spool, on_event=note, batch_size=GROUP["spool"], keep_delivered=task.keep_delivered
    ) as recorder:
        async for group in producer.groups():
            await asyncio.gather(*(recorder.record(intended.line.usage()) for intended in group))
            producer.keep([intended.number for intended in group])
            journal_what_was_told()
        while (await recorder.flush(1)).pending:
            journal_what_was_told()
        journal_what_was_told()


REPORT = {"single": report_singly, "batch": report_in_batches, "spool": report_through_a_spool}


async def produce(task: Task) -> None:
    client_type = ForgetfulClient if task.planted else BillingSystemClient
    async with client_type(base_url=task.base_url, timeout=CALL_SECONDS) as client:
        await REPORT[task.kind](Producer(task, client))


if __name__ == "__main__":
    asyncio.run(produce(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Task)))
