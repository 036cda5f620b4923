"""The PostgreSQL the tests run on, and one database a test.

The server is, in this order: the one BILLING_TEST_DATABASE_URL names (a role that may create databases), the cluster
that BILLING_TEST_CITUS_URL names (its coordinator, and a superuser), on which migrated databases are distributed ones,
a container of postgres:17-alpine where a Docker engine answers, the embedded one.
"""

import asyncio
import gc
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import docker  # type: ignore[import-untyped]  # it ships no types
import psutil
from docker.errors import DockerException  # type: ignore[import-untyped]  # it ships no types
from testcontainers.community.postgres import PostgresContainer

from billing_service.database.embedded import embedded_postgresql
from billing_service.database.migrations import migrate
from billing_service.settings import Settings
from tests.citus import Cluster

IMAGE = "postgres:17-alpine"
T = TypeVar("T")


MEMORY = Path("/dev/shm")  # where Linux keeps files in memory
MEMORY_NEEDED = 2 << 30  # bytes


class Server(NamedTuple):
    """A PostgreSQL server: `url` names a database on it from which others can be created, by `strategy`.

    `is_cluster` says that it is the coordinator of a cluster of Citus.
    """

    kind: str
    url: str
    strategy: str = "WAL_LOG"
    is_cluster: bool = False

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from synchronous code, whether or not this thread has a running loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def execute(url: str, *statements: str) -> Any:
    """Execute statements one by one; the value the last one gives."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


@contextmanager
def find_server() -> Iterator[Server]:
    """The server to test on, for the block."""
    if url := os.environ.get("BILLING_TEST_DATABASE_URL"):
        yield Server("BILLING_TEST_DATABASE_URL", url)
    elif url := os.environ.get("BILLING_TEST_CITUS_URL"):
        yield Server("BILLING_TEST_CITUS_URL, distributed over its nodes", url, is_cluster=True)
    elif container := _start_container():
        try:
            yield _throwaway(f"testcontainers {IMAGE}", container.get_connection_url())
        finally:
            container.stop()
    else:
        with embedded_server() as server:
            found = _throwaway("the embedded server", server.start())
            in_memory = server.folder.is_relative_to(MEMORY)
            yield found._replace(strategy="FILE_COPY") if in_memory else found


def _throwaway(kind: str, url: str) -> Server:
    """A server that lives no longer than the tests need not survive a crash of the machine."""
    unsafe = ("fsync = off", "full_page_writes = off", "max_wal_size = '256MB'")
    run(execute(url, *(f"ALTER SYSTEM SET {setting}" for setting in unsafe), "SELECT pg_reload_conf()"))
    return Server(kind, url)


def _start_container() -> PostgresContainer | None:
    """A container that runs, or None where no Docker engine answers or the image cannot be had."""
    with suppress(DockerException, OSError):
        client = docker.from_env(timeout=2)
        try:
            client.ping()
        finally:
            client.close()
        return PostgresContainer(IMAGE, driver=None).start()
    with warnings.catch_warnings():
        # docker leaves open the socket that it could not connect: collected later, it would fail whatever test runs
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return None


@contextmanager
def embedded_folder() -> Iterator[Path]:
    """A folder for the data of an embedded server; it does not exist yet.

    Not below pytest's tmp_path: as root the server runs as another user, for whom each parent of its data is opened.
    """
    parent = Path(tempfile.mkdtemp(prefix="billing-test-", dir=_memory_folder()))
    try:
        yield parent / "postgresql"
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _memory_folder() -> Path | None:
    """A folder in memory, where a database is made in a third of the time; None where there is no room for it."""
    if not (os.access(MEMORY, os.W_OK | os.X_OK) and MEMORY.is_mount()):
        return None
    free = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return MEMORY if free >= MEMORY_NEEDED else None


class EmbeddedServer:
    """An embedded server of one's own, which may be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def start(self) -> str:
        """Start it; gives its URL, the same each time."""
        return self._stack.enter_context(embedded_postgresql(str(self.folder)))[0]

    def stop(self) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """The process that all of its processes come from."""
        return int((self.folder / "postmaster.pid").read_text().split("\n")[0])

    @property
    def runs(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.NoSuchProcess):
            return False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes no step within the block: its connections stay open, and nothing is answered."""
        postmaster = psutil.Process(self.pid)
        postmaster.suspend()  # before the others, so that it makes no new ones
        others = postmaster.children(recursive=True)
        for process in others:
            process.suspend()
        try:
            yield
        finally:
            for process in [*others, postmaster]:
                process.resume()

    def kill(self) -> None:
        """End it as a crash would."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:  # where nobody reaps it, it stays in the table of processes
                os.kill(pid, 0)
                time.sleep(0.01)
        self._stack.close()


def address_of(url: str) -> tuple[str, int] | str:
    """Where the server of a URL listens: host and port, or the path of a Unix socket."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    return f"{folder[0]}/.s.PGSQL.{parts.port or 5432}" if folder else (str(parts.hostname), parts.port or 5432)


def url_at(url: str, port: int) -> str:
    """The URL of the same database by way of a port of this machine."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}", query=""))


@contextmanager
def embedded_server() -> Iterator[EmbeddedServer]:
    """An embedded server that is not started yet, and stopped at the end."""
    with embedded_folder() as folder:
        server = EmbeddedServer(folder)
        try:
            yield server
        finally:
            server.stop()


def server_version(server: Server) -> str:
    return str(run(execute(server.url, "SHOW server_version")))


@contextmanager
def database(server: Server, template: str = "template1") -> Iterator[str]:
    """A new database for the block, copied from a template; gives its name."""
    name = f"billing_test_{os.getpid()}_{uuid4().hex[:12]}"
    if server.is_cluster:
        with _cluster_database(Cluster(server.url), name, is_migrated=template != "template1"):
            yield name
        return
    run(execute(server.url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {server.strategy}'))
    try:
        yield name
    finally:
        run(execute(server.url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@contextmanager
def _cluster_database(cluster: Cluster, name: str, *, is_migrated: bool) -> Iterator[None]:
    """A new database on all nodes, which know each other."""
    run(cluster.create(name))
    try:
        if is_migrated:
            run(cluster.distribute(name))
        yield
    finally:
        run(cluster.drop(name))


@contextmanager
def migrated_database(server: Server) -> Iterator[str]:
    """A new database with the service's schema for the block; gives its name."""
    with database(server) as name:
        run(migrate(Settings(database_url=server.url_of(name))))  # of a cluster, each test's own is distributed
        yield name
