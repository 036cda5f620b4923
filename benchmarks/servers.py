"""What is measured runs here: one PostgreSQL, a database for each system, and each system as a process of its own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from benchmarks.usages import customer_id
from billing_service.database.embedded import embedded_postgresql
from billing_service.database.migrations import migrate
from billing_service.settings import Settings

ROOT = Path(__file__).parents[1]
STARTUP_SECONDS = 60


class Process(NamedTuple):
    """A server that answers on a port of this machine."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """The CPU time that it and its workers have taken."""
        process = psutil.Process(self.pid)
        times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
        return sum(time.user + time.system for time in times)


class DatabaseServer(NamedTuple):
    """The processes of a PostgreSQL of this machine."""

    pid: int

    def cpu_seconds(self) -> float:
        """The CPU time that all of them have taken, also those that have ended."""
        postmaster = psutil.Process(self.pid)
        ended, running = postmaster.cpu_times(), [each.cpu_times() for each in postmaster.children()]
        return ended.children_user + ended.children_system + sum(each.user + each.system for each in running)


def database_server(folder: Path) -> DatabaseServer:
    """The server that `postgresql` runs in a folder."""
    return DatabaseServer(int((folder / "postgresql" / "postmaster.pid").read_text().split()[0]))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the block. As root the embedded PostgreSQL opens every folder above its data to another user, so
    it lies directly below the system's temporary folder, which is open to all."""
    folder = Path(tempfile.mkdtemp(prefix="billing-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """An embedded PostgreSQL with its own defaults but for these settings, fsync on; gives its URL."""
    signal.signal(signal.SIGTERM, _stop)  # else a run that is told to end leaves its servers behind
    data = str(folder / "postgresql")
    if settings:
        with embedded_postgresql(data) as (url, _):
            for name, value in settings.items():
                query(url, f"ALTER SYSTEM SET {name} = '{value}'")
    with embedded_postgresql(data) as (url, _):
        if query(url, "SHOW fsync") != "on":
            raise RuntimeError("fsync is off: what is measured would not be durable")
        yield url


def _stop(*_: object) -> None:
    raise SystemExit(1)


def create_database(server_url: str, name: str, customers: int) -> str:
    """A new database with the service's schema and some customers; gives its URL."""
    query(server_url, f'CREATE DATABASE "{name}"')
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    asyncio.run(migrate(Settings(database_url=url)))
    create_customers(url, [customer_id(number) for number in range(customers)])
    return url


def create_customers(url: str, ids: Sequence[str]) -> None:
    query(
        url,
        "INSERT INTO customers (customer_id, name, created_at, updated_at)"
        " SELECT id, id, now(), now() FROM unnest($1::text[]) AS id",
        ids,
    )


def query(url: str, sql: str, *arguments: object, settings: Mapping[str, str] | None = None) -> Any:
    """Run one statement; the first value it gives."""

    async def run() -> Any:
        connection = await asyncpg.connect(url, server_settings=dict(settings or {}))
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


@contextmanager
def server_process(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[Process]:
    """Run a server for the block. PORT stands for its port in the command and the environment."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BILLING_", "DATABASE"))}
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    given = {key: value.replace("PORT", str(port)) for key, value in environment.items()}
    output = folder / f"{name}-{port}.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command],
            cwd=folder,
            env=inherited | {"PYTHONPATH": path} | given,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_answer(process, port, output)
        yield Process(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STARTUP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def service(database_url: str, folder: Path, *arguments: str, pool_size: int = 10) -> Iterator[Process]:
    """`billing-service serve` for the block."""
    command = [*SERVE, *arguments]
    environment = {"DATABASE_URL": database_url, "BILLING_POOL_SIZE": str(pool_size)}
    with server_process("service", command, environment, folder) as process:
        yield process


SERVE = [sys.executable, "-m", "billing_service", "serve", "--port", "PORT"]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _await_answer(process: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"a server did not start:\n{output.read_text()}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
