"""What runs: a primary with its standby, and services on both. Between any two of them there is a proxy."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path

import aiohttp
from msgspec import Struct

from billing_client import Usage
from billing_client._encoding import encode_usage
from tests.clocks import wrong_clock
from tests.databases import execute
from tests.faults.balancer import balanced
from tests.faults.journal import Intended, read_journal
from tests.faults.machines.fronts import HAProxy, PgBouncer, fronts_of
from tests.faults.proxy import Proxy
from tests.faults.stage import PATIENCE_SECONDS, Stage, StuckError
from tests.faults.usages import CUSTOMERS
from tests.replication import Replication, replicating_servers, url_of
from tests.services import get_status

PROBE_SECONDS = 0.1
COUNT = "SELECT count(*) FROM usage_records"


class Machines(Struct, frozen=True):
    """The servers and services of a case.

    `one_address` says that the services know the primary's address alone. `service_clocks` and `standby_clock` are by
    how much clocks are wrong; no text is not at all. `archives` says that the primary keeps all that it writes. `front`
    is what stands between the services and the servers: haproxy, pgbouncer and its mode, or pgbouncers, one for each.
    """

    synchronous: bool = True
    one_address: bool = False
    service_clocks: tuple[str, str] = ("", "")
    standby_clock: str = ""
    archives: bool = False
    front: str = ""

    @property
    def have_wrong_clocks(self) -> bool:
        return any((*self.service_clocks, self.standby_clock))


class MachinesStage(Stage):
    """Two services whose database is a primary with a standby.

    `ways` are the proxies to the two, from the services or from the `fronts`, and `link` is the one from the standby to
    the primary.
    """

    def __init__(
        self,
        folder: Path,
        machines: Machines,
        servers: Replication,
        database: str,
        ways: list[Proxy],
        link: Proxy,
        fronts: list[HAProxy | PgBouncer],
    ) -> None:
        self.machines = machines
        self.servers = servers
        self.name = database
        self.ways = ways
        self.link = link
        self.fronts = fronts
        self.recoveries: list[float] = []
        super().__init__(folder, None, url_of(servers.primary.address, database=database), None, "billing_service")  # type: ignore[arg-type]  # no fault here is about an embedded server

    @property
    def backup(self) -> Path:
        """A copy of the primary as it was at the beginning, and what a recovery begins with."""
        return self.servers.primary.folder.parent / "backup"

    @property
    def archive(self) -> Path:
        """Where the primary keeps all that it writes."""
        return self.servers.primary.folder.parent / "archive"

    def service_database_url(self) -> str:
        """The URL that the services have: what is in front, or the servers, each by way of its proxy."""
        ways = self.fronts or (self.ways[:1] if self.machines.one_address else self.ways)
        return url_of(*(f"127.0.0.1:{way.port}" for way in ways), database=self.name)

    def service_environment(self, index: int) -> dict[str, str]:
        offset = self.machines.service_clocks[index]
        in_transactions = {"BILLING_PGBOUNCER": str(self.machines.front.endswith("transaction")).lower()}
        return in_transactions | (wrong_clock(offset) if offset else {})

    async def is_ready(self, index: int) -> bool:
        """Whether a service can do its work. With a wrong clock it can, but says that it is not ready."""
        if not self.machines.have_wrong_clocks:
            return await super().is_ready(index)
        return await asyncio.to_thread(get_status, "127.0.0.1", self.ports[index], "/customers") == 200

    async def promote(self) -> None:
        """Make the standby the primary, and measure how long it takes until something is acknowledged again."""
        await asyncio.to_thread(self.servers.standby.promote)
        await self.lead_to_the_standby()

    async def lead_to_the_standby(self) -> None:
        """What was the standby is the primary from now on."""
        if len(self.fronts) == 1:
            await asyncio.to_thread(self.fronts[0].lead_to, self.ways[1].port)
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


@asynccontextmanager
async def open_machines(folder: Path, machines: Machines) -> AsyncIterator[MachinesStage]:
    """A stage with customers and services that work; at its end nothing is left running."""
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(replicating_servers())
        database = await asyncio.to_thread(servers.primary.create_database)
        names = ", ".join(f"('{name}', 'Name', now(), now())" for name in CUSTOMERS)
        await execute(
            url_of(servers.primary.address, database=database),
            f"INSERT INTO customers (customer_id, name, created_at, updated_at) VALUES {names}",
            "SELECT 1",
        )
        link, *ways = [
            await stack.enter_async_context(Proxy(("127.0.0.1", server.port)))
            for server in (servers.primary, servers.primary, servers.standby)
        ]
        place, ports = servers.primary.folder.parent, [way.port for way in ways]
        fronts = await asyncio.to_thread(stack.enter_context, fronts_of(machines.front, place, ports))
        stage = MachinesStage(folder, machines, servers, database, ways, link, fronts)
        await asyncio.to_thread(_set_up, stage)
        stack.callback(stage.kill_all)
        stage.front = await stack.enter_async_context(balanced(stage.ports))
        await asyncio.gather(*(stage.start_service(index) for index in range(len(stage.ports))))
        yield stage


def _set_up(stage: MachinesStage) -> None:
    """Set the servers up as the case has them."""
    machines, primary, standby = stage.machines, stage.servers.primary, stage.servers.standby
    if machines.archives:
        primary.stop()
        primary.keep_all(stage.archive)
        primary.start()
        primary.back_up(stage.backup)
    if machines.standby_clock:
        standby.stop()
        standby.environment = wrong_clock(machines.standby_clock)
        standby.start()
    standby.follow(stage.link.port)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not len(stage.link):
        if time.monotonic() > deadline:
            raise StuckError("the standby does not come to the primary")
        time.sleep(0.05)
    if machines.synchronous:
        primary.replicate_synchronously()
