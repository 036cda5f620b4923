"""The loss of machines: a primary and its standby, services on both, and what befalls them while usage is reported.

Each scenario has servers of its own. Afterwards the database of the last primary is held against the journals, as in
every run. Where replication promises less than all, what is lost is counted. Then everything is reported once more, as
a producer does after a restore, and nothing may be lost or doubled any more.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

from billing_client import BillingSystemClient, Usage
from billing_client._encoding import encode_usage
from tests.databases import execute
from tests.faults.balancer import balanced
from tests.faults.check import Check, Findings
from tests.faults.journal import Intended, read_journal
from tests.faults.plan import SHARES
from tests.faults.producer import Task
from tests.faults.proxy import Proxy
from tests.faults.stage import PATIENCE_SECONDS, Stage, StuckError
from tests.faults.usages import CUSTOMERS
from tests.replication import Replication, replicating_servers, url_of

DROPS, DROP_SECONDS = 20, 0.1
HOLD_SECONDS = 1.5
PROBE_SECONDS = 0.1
SOME = 100  # records
COUNT = "SELECT count(*) FROM usage_records"
SYNC = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class MachinesStage(Stage):
    """Two services whose database is a primary with a standby, each behind a proxy of its own."""

    def __init__(self, folder: Path, servers: Replication, database: str, way: Proxy, other_way: Proxy) -> None:
        self.servers = servers
        self.name = database
        self.ways = [way, other_way]
        self.recoveries: list[float] = []
        super().__init__(folder, None, url_of(servers.primary.address, database=database), None, "billing_service")  # type: ignore[arg-type]  # no fault here is about an embedded server

    def service_database_url(self) -> str:
        """The URL that the services have: both servers, each by way of its proxy."""
        return url_of(*(f"127.0.0.1:{way.port}" for way in self.ways), database=self.name)

    async def promote(self) -> None:
        """Make the standby the primary, and measure how long it takes until something is acknowledged again."""
        await asyncio.to_thread(self.servers.standby.promote)
        self.url = url_of(self.servers.standby.address, database=self.name)
        await self.recover()

    async def recover(self) -> None:
        """Note how long it takes from now until usage is answered again. Probes do not wait for each other."""
        began = time.monotonic()
        body = encode_usage(await asyncio.to_thread(self._reported)).body
        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as http:
            probes: set[asyncio.Task[bool]] = set()
            while not any(probe.done() and probe.result() for probe in probes):
                if time.monotonic() > began + PATIENCE_SECONDS:
                    raise StuckError("no usage is answered any more")
                probes.add(asyncio.create_task(self._probe(http, body)))
                await asyncio.wait(probes, timeout=PROBE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                probes = {probe for probe in probes if not probe.done() or probe.result()}
                await asyncio.sleep(0.01)
            self.recoveries.append(time.monotonic() - began)
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def _reported(self) -> Usage:
        """Usage that was reported before."""
        entries = chain.from_iterable(read_journal(task.journal) for task in self.tasks)
        return next(entry.line.usage() for entry in entries if isinstance(entry, Intended))

    async def _probe(self, http: aiohttp.ClientSession, body: bytes) -> bool:
        with suppress(aiohttp.ClientError, OSError):
            async with http.post(f"http://127.0.0.1:{self.front.port}/usage", data=body) as response:
                return response.status in (201, 409)
        return False

    async def until_recorded(self, more: int) -> None:
        """Wait until the primary has recorded so many more."""
        url = url_of(self.servers.primary.address, database=self.name)
        wanted = await execute(url, COUNT) + more
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await execute(url, COUNT) < wanted:
            if time.monotonic() > deadline:
                raise StuckError("nothing is recorded any more")
            await asyncio.sleep(0.05)


Scenario = Callable[[MachinesStage], Coroutine[Any, Any, None]]


async def killed(stage: MachinesStage) -> None:
    """The machine of the primary is lost, and the standby promoted."""
    stage.servers.primary.kill()
    await stage.promote()


async def killed_while_behind(stage: MachinesStage) -> None:
    """The standby receives nothing for a while, and then the primary is lost."""
    with stage.servers.standby.frozen():
        await stage.until_recorded(SOME)
        stage.servers.primary.kill()
    await stage.promote()


async def frozen_and_back(stage: MachinesStage) -> None:
    """The primary stands still, the standby is promoted, and the old primary goes on where it was."""
    with stage.servers.primary.frozen():
        await stage.promote()
        await asyncio.sleep(HOLD_SECONDS)
    await asyncio.sleep(HOLD_SECONDS)


async def cut_off_and_back(stage: MachinesStage) -> None:
    """The services lose the primary, the standby is promoted, and the way to the old primary is open again."""
    way = stage.ways[0]
    way.refusing = True
    way.silence_all()
    await stage.promote()
    await asyncio.sleep(HOLD_SECONDS)
    way.refusing = False
    await asyncio.sleep(HOLD_SECONDS)


async def link_cut_then_failover(stage: MachinesStage) -> None:
    """The standby is out of reach of the primary for longer than a call waits, and then the primary is lost."""
    with stage.servers.standby.frozen():
        await asyncio.sleep(2 * HOLD_SECONDS)
    stage.servers.primary.kill()
    await stage.promote()


async def standby_away(stage: MachinesStage) -> None:
    """The standby is away for longer than a call waits, and comes back."""
    await asyncio.to_thread(stage.servers.standby.stop)
    await asyncio.sleep(2 * HOLD_SECONDS)
    await asyncio.to_thread(stage.servers.standby.start)
    await asyncio.to_thread(stage.servers.primary.await_value, SYNC, 1)
    await stage.recover()


async def address_leads_to_the_standby(stage: MachinesStage) -> None:
    """The one address that the services have leads to the standby for a while."""
    way = stage.ways[0]
    way.targets[:] = [("127.0.0.1", stage.servers.standby.port)]
    way.reset_all()
    await asyncio.sleep(2 * HOLD_SECONDS)
    way.targets[:] = [("127.0.0.1", stage.servers.primary.port)]
    await stage.recover()


async def restored_to_a_moment(stage: MachinesStage) -> None:
    """The database is put back to an earlier moment: a standby that stopped there becomes the primary."""
    await asyncio.to_thread(stage.servers.standby.stop)
    await stage.until_recorded(SOME)
    stage.servers.primary.kill()
    await asyncio.to_thread(stage.servers.standby.start)
    await stage.promote()


class Case(Struct, frozen=True):
    """A scenario, and how the servers replicate. `may_lose` says that replication does not promise all."""

    scenario: Scenario
    synchronous: bool = True
    may_lose: bool = False
    one_address: bool = False


CASES = {
    "primary killed, standby promoted": Case(killed),
    "primary frozen, comes back as a zombie": Case(frozen_and_back),
    "primary cut off, comes back as a zombie": Case(cut_off_and_back),
    "link between the two cut, then failover": Case(link_cut_then_failover),
    "standby away and back": Case(standby_away),
    "address leads to the standby for a while": Case(address_leads_to_the_standby, one_address=True),
    "asynchronous: primary killed": Case(killed, synchronous=False, may_lose=True),
    "asynchronous: primary killed while the standby is behind": Case(
        killed_while_behind, synchronous=False, may_lose=True
    ),
    "restored to an earlier moment": Case(restored_to_a_moment, synchronous=False, may_lose=True),
}


class Outcome(Struct, frozen=True):
    """What a case came to. `lost` were lost by the failure itself; `findings` is the check at the end."""

    name: str
    lost: int
    findings: Findings
    recoveries: list[float]
    troubles: list[str]
    seconds: float

    @property
    def violations(self) -> list[str]:
        """Each promise that was broken, as a line for a person."""
        found = self.findings
        counted = {
            "lost": found.lost + (0 if CASES[self.name].may_lose else self.lost),
            "doubled": found.doubled,
            "with other numbers": found.changed,
            "unknown at the end": found.unknown,
            "refused": found.refused,
        }
        lines = [f"{count} {what}" for what, count in counted.items() if count]
        return [f"{self.name}: {line}" for line in lines + found.differences + self.troubles]


async def run_case(name: str, records: int, seed: int, folder: Path) -> Outcome:
    """Report so many records while the case befalls the servers, and check all."""
    case, began = CASES[name], time.monotonic()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with _open(folder, case) as stage:
        await stage.add_producers(_tasks(stage, records, seed))
        await _release(stage, 0.0, 0.3)
        await stage.until_settled(0.1)
        fault = asyncio.create_task(case.scenario(stage))
        releasing = asyncio.create_task(_release(stage, 0.3, 1.0))
        try:
            await fault
            await releasing
            await stage.until_settled(1.0)
            await stage.end_producers()
        except StuckError as error:
            stage.troubles.append(str(error))
            releasing.cancel()
        url = f"http://127.0.0.1:{stage.front.port}"
        async with BillingSystemClient(base_url=url, timeout=60) as client:
            lost = 0
            if case.may_lose:
                check = await asyncio.to_thread(Check, stage.tasks)
                lost = (await check.hold_against(stage.url, client)).lost
                await _report_again(stage.tasks, client)
            check = await asyncio.to_thread(Check, stage.tasks)
            findings = await check.hold_against(stage.url, client)
        for index in range(len(stage.ports)):
            await stage.stop_service(index)
    return Outcome(name, lost, findings, stage.recoveries, stage.troubles, time.monotonic() - began)


async def _report_again(tasks: list[Task], client: BillingSystemClient) -> None:
    """Send everything once more, as a producer does that keeps what it reported."""
    entries = (entry for task in tasks for entry in read_journal(task.journal))
    usages = [entry.line.usage() for entry in entries if isinstance(entry, Intended)]
    async for outcome in client.record_usages(usages):
        if outcome.record is None:
            raise StuckError(f"usage that was sent again is refused: {outcome.error}")


def _tasks(stage: Stage, records: int, seed: int) -> list[Task]:
    url = f"http://127.0.0.1:{stage.front.port}"
    return [
        Task(index, kind, seed, round(records * share), url, str(stage.folder))
        for index, (kind, share) in enumerate(SHARES)
    ]


async def _release(stage: Stage, start: float, end: float) -> None:
    for drop in range(1, DROPS + 1):
        stage.allow(start + (end - start) * drop / DROPS)
        await asyncio.sleep(DROP_SECONDS)


@asynccontextmanager
async def _open(folder: Path, case: Case) -> AsyncIterator[MachinesStage]:
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(replicating_servers())
        database = await asyncio.to_thread(servers.primary.create_database)
        names = ", ".join(f"('{name}', 'Name', now(), now())" for name in CUSTOMERS)
        await execute(
            url_of(servers.primary.address, database=database),
            f"INSERT INTO customers (customer_id, name, created_at, updated_at) VALUES {names}",
            "SELECT 1",
        )
        if case.synchronous:
            await asyncio.to_thread(servers.primary.replicate_synchronously)
        ways = [
            await stack.enter_async_context(Proxy(("127.0.0.1", server.port)))
            for server in (servers.primary, servers.standby)
        ]
        stage = MachinesStage(folder, servers, database, *ways)
        if case.one_address:
            stage.ways = ways[:1]
        stack.callback(stage.kill_all)
        stage.front = await stack.enter_async_context(balanced(stage.ports))
        await asyncio.gather(*(stage.start_service(index) for index in range(len(stage.ports))))
        yield stage


def median_recovery(outcomes: list[Outcome]) -> float:
    """Seconds from a promotion, or from when a server is there again, until something is acknowledged."""
    return statistics.median(seconds for outcome in outcomes for seconds in outcome.recoveries)
