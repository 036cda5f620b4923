"""A run: load on three workers while workers and the service are killed, a restart with one worker, and the check."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path

import msgspec
from msgspec import Struct

from billing_client import BillingSystemClient, CustomerExistsError, Usage, UsageRecord
from tests.faults.applications.application import PRODUCERS, Application
from tests.faults.applications.names import usages_of
from tests.faults.applications.task_load import TaskLoad
from tests.faults.applications.web_load import WebLoad
from tests.redis_servers import running_redis
from tests.services import until

AT_ONCE = 16

Load = WebLoad | TaskLoad


class Findings(Struct):
    """What a run came to. `lost`, `doubled` and `changed` name requests; `left` are files that nobody delivered."""

    acknowledged: int
    hung_up: int
    billed: int
    amount: Decimal
    expected: Decimal
    lost: list[str]
    doubled: list[str]
    changed: list[str]
    left: list[str]
    kills: dict[str, int] = msgspec.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether all that was acknowledged is billed, once and with its numbers, and nothing is left."""
        is_complete = self.billed == 2 * self.acknowledged and self.amount == self.expected
        return is_complete and not (self.lost or self.doubled or self.changed or self.left)


async def run(
    folder: Path, database_url: str, producer: str, workers: int, requests: int, kills: int, seed: int
) -> Findings:
    """Make so many requests of so many workers, a half while some are killed, the rest after a restart with one."""
    began = time.monotonic()
    draw = random.Random(seed)
    async with AsyncExitStack() as stack:
        kind = PRODUCERS[producer]
        broker = stack.enter_context(running_redis(folder)) if kind.needs_broker else ""
        application = Application(folder, database_url, kind, broker)
        load = TaskLoad(broker, application.journal) if broker else WebLoad(application.url, draw)
        processes = _Processes(application, workers, stack)
        await asyncio.to_thread(processes.service.await_ready, application.service_port)
        await _create_customers(application.service_url)
        await load.make(AT_ONCE, AT_ONCE)
        killed: Counter[str] = Counter()
        for index in range(kills):
            making = asyncio.create_task(load.make(requests // (2 * kills), AT_ONCE))
            killed += await processes.kill(index, load, draw)
            await making
        await processes.restart(workers=1)
        await load.make(requests // 2, AT_ONCE)
        await _repeat_what_was_cut_off(application, load)
        await asyncio.to_thread(processes.service.await_ready, application.service_port)
        await until(lambda: application.pending() == 0)
        await until(lambda: len(application.files()) == 1)
        await asyncio.to_thread(processes.workers.terminate)
        findings = await _check(application, load)
    findings.kills = dict(killed)
    findings.seconds = time.monotonic() - began
    return findings


class _Processes:
    """The application and the service, of which the stack ends those that still run."""

    def __init__(self, application: Application, workers: int, stack: AsyncExitStack) -> None:
        self._application = application
        self._stack = stack
        self.service = stack.enter_context(application.start_service())
        self._number = workers
        self.workers = stack.enter_context(application.start(workers))

    async def kill(self, index: int, load: Load, draw: random.Random) -> Counter[str]:
        """Kill a worker, at times all with the process that started them, and every other time the service too."""
        if self._application.producer.dies_whole and index % 3 == 1:
            killed = Counter(whole=1)
            self.workers.kill()
            self.workers = self._stack.enter_context(self._application.start(self._number))
        else:
            killed = Counter(worker=_kill_a_worker(load.pids, draw))
        if index % 2:
            killed["service"] += 1
            self.service.kill()
            await asyncio.sleep(draw.uniform(0, 0.5))
            self.service = self._stack.enter_context(self._application.start_service())
        return killed

    async def restart(self, workers: int) -> None:
        """Stop the application as a supervisor does, and start it with so many workers."""
        await asyncio.to_thread(self.workers.terminate)
        self.workers = self._stack.enter_context(self._application.start(workers))


async def _create_customers(url: str) -> None:
    async with BillingSystemClient(base_url=url) as client:
        for number in range(10):
            with suppress(CustomerExistsError):
                await client.create_customer(name="Customer", customer_id=f"customer-{number}")


def _kill_a_worker(pids: set[int], draw: random.Random) -> int:
    """Kill a worker that has answered; another is started in its place."""
    for pid in draw.sample(sorted(pids), len(pids)):
        pids.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return 1
    return 0


async def _repeat_what_was_cut_off(application: Application, load: Load) -> None:
    """Repeat as calls those streams whose worker was killed before it could record them, as a client would."""
    if load.streams:
        await asyncio.sleep(0.5)  # the application learns of the last hang-ups
        await load.repeat(load.streams - application.journal.read())


async def _check(application: Application, load: Load) -> Findings:
    """Compare what is billed with what was acknowledged, by the numbers that the names decide."""
    acknowledged = load.answered | application.journal.read()
    expected = {str(usage.event_id): usage for name in acknowledged for usage in usages_of(name)}
    billed: Counter[str] = Counter()
    changed: list[str] = []
    async with BillingSystemClient(base_url=application.service_url) as client:
        totals = [customer.total.amount async for customer in client.summaries()]
        for number in range(10):
            async for record in client.usage(customer_id=f"customer-{number}", page_size=1_000):
                name = str(record.event_id)
                billed[name] += 1
                if name not in expected or _figures(record) != _figures(expected[name]):
                    changed.append(name)
    return Findings(
        acknowledged=len(acknowledged),
        hung_up=len(load.streams),
        billed=billed.total(),
        amount=sum(totals, Decimal()),
        expected=sum((Decimal(u.units_consumed) * Decimal(u.price_per_unit) for u in expected.values()), Decimal()),
        lost=sorted(expected.keys() - billed.keys()),
        doubled=sorted(name for name, count in billed.items() if count > 1),
        changed=changed,
        left=sorted(path.name for path in application.spools.iterdir()),
    )


def _figures(usage: Usage | UsageRecord) -> tuple[str, Decimal, Decimal]:
    return usage.customer_id, Decimal(usage.units_consumed), Decimal(usage.price_per_unit)
