"""What runs: PostgreSQL, two services behind a balancer, producers, and a proxy before and behind the services."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from billing_service.database.migrations import migrate
from billing_service.settings import Settings
from tests.databases import EmbeddedServer, address_of, embedded_folder, execute, url_at
from tests.faults.balancer import balanced
from tests.faults.disk import GIGABYTE, Disk, mounted_disk
from tests.faults.journal import Progress
from tests.faults.producer import Task
from tests.faults.proxy import Proxy
from tests.faults.usages import CUSTOMERS
from tests.programs import UNMEASURED
from tests.services import ServiceProcess, free_port, get_status

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
DATABASE_SECONDS = 2  # the service's BILLING_DATABASE_TIMEOUT: short, so that it is met
MAX_CONNECTIONS = 30
_CONFIGURATION = {"max_connections": str(MAX_CONNECTIONS), "max_wal_size": "'256MB'", "min_wal_size": "'64MB'"}


class StuckError(Exception):
    """Nothing moves any more."""


class Stage:
    """The processes, each of which may be killed and started again, and the proxies; `troubles` are what went wrong."""

    def __init__(self, folder: Path, server: EmbeddedServer, url: str, disk: Disk | None, service_module: str) -> None:
        self.folder = folder
        self.server = server
        self.url = url
        self.disk = disk
        self.database = Proxy(address_of(url))
        self.ports = [free_port(), free_port()]
        self.services: dict[int, ServiceProcess] = {}
        self.producers: dict[int, ServiceProcess] = {}
        self.tasks: list[Task] = []
        self.troubles: list[str] = []
        self._progress: list[Progress] = []
        self._service_module = service_module
        self.front: Proxy

    def service_database_url(self) -> str:
        """The URL of the database that the services have, by way of the proxy."""
        return url_at(self.url, self.database.port)

    def service_environment(self, index: int) -> dict[str, str]:
        """What a service has in its environment besides."""
        return {}

    async def is_ready(self, index: int) -> bool:
        """Whether a service can do its work."""
        return await asyncio.to_thread(get_status, "127.0.0.1", self.ports[index], "/readyz") == 200

    def settled(self) -> int:
        """How many records are acknowledged, or kept."""
        return sum(progress.look() for progress in self._progress)

    def _spawn_service(self, index: int) -> ServiceProcess:
        environment = {
            "DATABASE_URL": self.service_database_url(),
            "BILLING_DATABASE_TIMEOUT": str(DATABASE_SECONDS),
            "BILLING_POOL_SIZE": "5",
            "BILLING_PORT": str(self.ports[index]),
            "BILLING_DRAIN_DELAY": "0.3",
            "BILLING_SHUTDOWN_TIMEOUT": "5",
            "PYTHONPATH": str(ROOT),
            **UNMEASURED,
            **self.service_environment(index),
        }
        arguments = ["serve"] if self._service_module == "billing_service" else []
        folder = self.folder / f"service-{index}"
        return ServiceProcess(folder, *arguments, environment=environment, module=self._service_module)

    async def start_service(self, index: int) -> None:
        """Start a service, again where it finds no database, as whoever supervises it would; until it is ready."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        service = self.services[index] = self._spawn_service(index)
        while not await self.is_ready(index):
            if time.monotonic() > deadline:
                raise StuckError(f"a service is not ready:\n{service.output}")
            if service.process.poll() is not None:
                service = self.services[index] = self._spawn_service(index)
            await asyncio.sleep(0.1)

    async def start_producer(self, task: Task) -> None:
        file = task.journal.with_suffix(".json")
        file.write_bytes(msgspec.json.encode(task))
        self.producers[task.index] = ServiceProcess(
            self.folder / f"producer-{task.index}",
            str(file),
            environment={"PYTHONPATH": str(ROOT), **UNMEASURED},
            module="tests.faults.producer",
        )

    async def add_producers(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.tasks.append(task)
            self._progress.append(Progress(task.journal))
        self.allow(0.0)
        for task in tasks:
            await self.start_producer(task)

    def allow(self, share: float) -> None:
        """Let each producer report this share of its records."""
        for task in self.tasks:
            file = task.allowance.with_suffix(".new")
            file.write_text(str(round(task.records * share)))
            file.replace(task.allowance)  # whole, for whoever reads it

    async def until_settled(self, share: float) -> None:
        """Wait until this share of the records is acknowledged. Raises StuckError where nothing moves for long."""
        wanted = sum(round(task.records * share) for task in self.tasks)
        moved, before = time.monotonic(), -1
        while (settled := self.settled()) < wanted:
            if settled > before:
                moved, before = time.monotonic(), settled
            if time.monotonic() > moved + PATIENCE_SECONDS:
                raise StuckError(f"{settled} of {wanted} records are acknowledged, and no more come")
            self._watch()
            await asyncio.sleep(0.05)

    def _watch(self) -> None:
        """Raise StuckError where a process ended that no fault was to end: no fault is under way now."""
        for index, service in self.services.items():
            if service.process.poll() is not None:
                raise StuckError(f"service {index} ended by itself:\n{service.output}")
        for index, producer in self.producers.items():
            if producer.process.poll() not in (None, 0):
                raise StuckError(f"producer {index} ended by itself:\n{producer.output}")

    async def end_producers(self) -> None:
        for index, producer in self.producers.items():
            if code := await asyncio.to_thread(producer.wait, PATIENCE_SECONDS):
                self.troubles.append(f"producer {index} ended with {code}:\n{producer.output}")

    async def stop_service(self, index: int) -> None:
        """Ask a service to stop; anything but an end in order, in time, is a trouble."""
        service = self.services[index]
        code = await asyncio.to_thread(service.terminate, seconds=PATIENCE_SECONDS)
        if code != 0 or "Traceback" in service.output:
            self.troubles.append(f"a service told to stop ended with {code}:\n{service.output}")

    async def revive_server(self) -> None:
        """Start PostgreSQL where it does not run, or make sure that it does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                await execute(self.url, "SELECT 1")
            except Exception as error:
                if time.monotonic() > deadline:
                    raise StuckError("PostgreSQL does not come back") from error
                if not self.server.runs:
                    await asyncio.to_thread(self.server.stop)
                    await asyncio.to_thread(self.server.start)
                await asyncio.sleep(0.1)
            else:
                return

    def kill_all(self) -> None:
        for process in [*self.services.values(), *self.producers.values()]:
            process.kill()


@asynccontextmanager
async def open_stage(folder: Path, service_module: str = "billing_service") -> AsyncIterator[Stage]:
    """A stage with customers and services that are ready; at its end nothing is left running."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(embedded_folder()).parent
        disk = stack.enter_context(mounted_disk(folder / "disk.img", place / "disk", 8 * GIGABYTE))
        server = EmbeddedServer(place / "disk" / "postgresql")
        stack.callback(server.stop)
        url = await asyncio.to_thread(server.start)
        settings = [f"ALTER SYSTEM SET {name} = {value}" for name, value in _CONFIGURATION.items()]
        await execute(url, *settings, "SELECT 1")
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        if await execute(url, "SHOW fsync") != "on":
            raise RuntimeError("fsync is off: a crash of PostgreSQL would prove nothing")
        await migrate(Settings(database_url=url))
        names = [f"('{name}', 'Name', now(), now())" for name in CUSTOMERS]
        await execute(
            url,
            f"INSERT INTO customers (customer_id, name, created_at, updated_at) VALUES {', '.join(names)}",
            "SELECT 1",
        )
        stage = Stage(folder, server, url, disk, service_module)
        stack.callback(stage.kill_all)
        await stack.enter_async_context(stage.database)
        stage.front = await stack.enter_async_context(balanced(stage.ports))
        await asyncio.gather(*(stage.start_service(index) for index in range(len(stage.ports))))
        yield stage
