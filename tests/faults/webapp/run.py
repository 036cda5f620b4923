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

import aiohttp
from msgspec import Struct

from billing_client import BillingSystemClient, CustomerExistsError, Spool, SpoolError, Usage, UsageRecord
from tests.faults.webapp.app import usages_of
from tests.faults.webapp.load import Load
from tests.programs import UNMEASURED
from tests.services import ServiceProcess, free_port, until

ROOT = Path(__file__).parents[3]
WORKERS = 3
AT_ONCE = 16
SERVER = ("--port", "{port}", "--log-level", "warning", "tests.faults.webapp.app:app")


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
    worker_kills: int = 0
    service_kills: int = 0
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether all that was acknowledged is billed, once and with its numbers, and nothing is left."""
        is_complete = self.billed == 2 * self.acknowledged and self.amount == self.expected
        return is_complete and not (self.lost or self.doubled or self.changed or self.left)


class Application:
    """The application, run by uvicorn with as many workers as told, and the service that it reports to."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.spools = folder / "spools"
        self.journal = folder / "journal.txt"
        self.journal.touch()
        self.port, self.service_port = free_port(), free_port()
        self.url, self.service_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.service_port}"
        self._folder = folder
        self._database_url = database_url

    def start(self, workers: int) -> ServiceProcess:
        """Start the application."""
        environment = {
            "APP_SPOOL_DIR": str(self.spools),
            "APP_JOURNAL": str(self.journal),
            "BILLING_BASE_URL": self.service_url,
            "PYTHONPATH": str(ROOT),
            **UNMEASURED,
        }
        arguments = [word.format(port=self.port) for word in SERVER]
        return ServiceProcess(
            self._folder / "app", *arguments, "--workers", str(workers), environment=environment, module="uvicorn"
        )

    def start_service(self) -> ServiceProcess:
        """Start the service."""
        environment = {"DATABASE_URL": self._database_url, "BILLING_PORT": str(self.service_port), **UNMEASURED}
        return ServiceProcess(self._folder / "service", "serve", environment=environment)

    def pending(self) -> int:
        """How many records the spools hold."""
        held = 0
        for path in self.spools.glob("*.db"):
            with suppress(SpoolError), Spool(path, read_only=True) as spool:  # it may be removed at this moment
                held += spool.status().pending
        return held


async def run(folder: Path, database_url: str, requests: int, kills: int, seed: int) -> Findings:
    """Make so many requests, a half while so many workers and services are killed, the rest after a restart."""
    began = time.monotonic()
    draw = random.Random(seed)
    application = Application(folder, database_url)
    load = Load(application.url, draw)
    async with AsyncExitStack() as stack:
        service = stack.enter_context(application.start_service())
        workers = stack.enter_context(application.start(WORKERS))
        await asyncio.to_thread(service.await_ready, application.service_port)
        await _create_customers(application.service_url)
        await load.make(AT_ONCE, AT_ONCE)
        killed = 0
        for index in range(kills):
            making = asyncio.create_task(load.make(requests // (2 * kills), AT_ONCE))
            killed += _kill_a_worker(load, draw)
            if index % 2:
                service.kill()
                await asyncio.sleep(draw.uniform(0, 0.5))
                service = stack.enter_context(application.start_service())
            await making
        await asyncio.to_thread(workers.terminate)
        workers = stack.enter_context(application.start(1))
        await load.make(requests // 2, AT_ONCE)
        await _repeat_what_was_cut_off(application, load)
        await asyncio.to_thread(service.await_ready, application.service_port)
        await until(lambda: application.pending() == 0)
        await until(lambda: len(list(application.spools.glob("*.db"))) == 1)
        await asyncio.to_thread(workers.terminate)
        findings = await _check(application, load)
    findings.worker_kills, findings.service_kills = killed, kills // 2
    findings.seconds = time.monotonic() - began
    return findings


async def _create_customers(url: str) -> None:
    async with BillingSystemClient(base_url=url) as client:
        for number in range(10):
            with suppress(CustomerExistsError):
                await client.create_customer(name="Customer", customer_id=f"customer-{number}")


def _kill_a_worker(load: Load, draw: random.Random) -> int:
    """Kill a worker that has answered; uvicorn starts another in its place."""
    for pid in draw.sample(sorted(load.pids), len(load.pids)):
        load.pids.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return 1
    return 0


def _safe_streams(application: Application) -> set[str]:
    return set(application.journal.read_text().split())


async def _repeat_what_was_cut_off(application: Application, load: Load) -> None:
    """Repeat as calls those streams whose worker was killed before it could record them, as a client would."""
    await asyncio.sleep(0.5)  # the application learns of the last hang-ups
    async with aiohttp.ClientSession() as session:
        for name in sorted(load.streams - _safe_streams(application)):
            await load.call(session, name)


async def _check(application: Application, load: Load) -> Findings:
    """Compare what is billed with what was acknowledged, by the numbers that the names decide."""
    acknowledged = load.answered | _safe_streams(application)
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
