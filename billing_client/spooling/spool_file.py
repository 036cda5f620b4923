"""The file of a spool: opens, locks and checks it, runs transactions, and translates the errors of SQLite."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from billing_client._errors import (
    SpoolCorruptError,
    SpoolDiskFullError,
    SpoolError,
    SpoolForkedError,
    SpoolInUseError,
)
from billing_client.contract.named_queries import read_queries
from billing_client.spooling.private_files import BALLAST_BYTES, Ballast, make_private

T = TypeVar("T")

SQL = read_queries(Path(__file__).with_name("spool.sql"))
VERSION = 2
APPLICATION_ID = 0x62696C6C
_SCHEMA = ("create_pending", "create_dead", "create_delivered", "set_application_id", "set_version")
_UPGRADE = ("add_followers", "create_delivered", "set_version")  # from version 1, that of release 0.2.0
PAGE_BYTES = 4096  # SQLite's default
READ_BYTES = 1024 * 1024
BUSY_SECONDS = 5.0  # a reader in another process locks the file briefly when it opens or closes it

_BY_CODE: Mapping[int, type[SpoolError]] = {
    sqlite3.SQLITE_FULL: SpoolDiskFullError,
    sqlite3.SQLITE_IOERR_SHMSIZE: SpoolDiskFullError,
    sqlite3.SQLITE_CORRUPT: SpoolCorruptError,
    sqlite3.SQLITE_NOTADB: SpoolCorruptError,
}


class SpoolFile:
    """A database of the schema in `spool.sql`, for use in one thread of one process.

    Without a path it is in memory. `create` creates a missing file. A writer holds the lock `PATH.lock` until the file
    is closed; the operating system releases the lock of a process that dies. Raises SpoolError.
    """

    def __init__(self, path: Path | None, *, create: bool, read_only: bool) -> None:
        self._path = None if path is None else path.resolve()
        self._pid = os.getpid()
        self._ballast: Ballast | None = None
        if self._path is not None and not read_only:
            self._ballast = Ballast(self._path.with_name(f"{self._path.name}.ballast"))
        try:
            self._open_files(create, read_only)
        except SpoolDiskFullError:
            if self._ballast is None or not self._ballast.is_there():
                raise
            self._ballast.give_up()
            self._open_files(create, read_only)

    def _open_files(self, create: bool, read_only: bool) -> None:
        with ExitStack() as undo, self._errors():
            if self._path is not None and not create and not self._path.exists():
                self._refuse_missing(self._path, read_only)
            if self._path is not None and not read_only:
                undo.enter_context(closing(self._locked(self._path)))
                self._require_whole(self._path)
                if not create and not self._path.exists():  # another process removed it, or was killed meanwhile
                    self._remove_files()
                    raise SpoolError(f"{self}: there is no such file")
                make_private(self._path)
            self._connection = undo.enter_context(closing(_connect(self._path, create)))
            self._prepare(read_only)
            self._opened = self._identities()
            self._open = undo.pop_all()

    @property
    def path(self) -> Path | None:
        """Where it is; None if it is in memory."""
        return self._path

    def __repr__(self) -> str:
        return "the spool in memory" if self._path is None else str(self._path)

    def check_process(self) -> None:
        """Raises SpoolForkedError in a process that was forked from the one that opened the file."""
        if os.getpid() != self._pid:
            raise SpoolForkedError(f"{self} was opened by process {self._pid}; process {os.getpid()} needs its own")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on disk when the block ends, or rolled back if it fails. Raises SpoolError."""
        self.check_process()
        with self._errors():
            self._connection.execute(SQL["begin"])
            try:
                yield self._connection
                self._connection.execute(SQL["commit"])
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it already
                    self._connection.execute(SQL["rollback"])
                raise

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work that needs no more room in the end, in a transaction. A full disk is no obstacle to it, as a rule.

        Raises SpoolError.
        """
        try:
            with self.transaction() as connection:
                return work(connection)
        except SpoolDiskFullError:
            if self._ballast is not None:
                self._ballast.give_up()
            self._shrink("checkpoint")
            with self.transaction() as connection:
                return work(connection)

    def require_place(self) -> None:
        """Raises SpoolError if what is added now would be found by nobody: somebody removed or moved the file."""
        now = self._identities()
        if any(before not in (None, found) for before, found in zip(self._opened, now, strict=True)):
            raise SpoolError(f"{self} was removed or moved while it is in use; close the recorder, and put it back")

    def _identities(self) -> list[tuple[int, int] | None]:
        """Which files hold what is written: the database, and the log in which that stands at first."""
        return [] if self._path is None else [_identity(_beside(self._path, suffix)) for suffix in ("", "-wal")]

    def _require_whole(self, path: Path) -> None:
        """Raises SpoolCorruptError if the log is there without its file: SQLite would delete it, with all it holds."""
        log = _beside(path, "-wal")
        if _size(log) and not _size(path):
            raise SpoolCorruptError(
                f"{self} is missing or empty, but its log {log} is not; put the file back beside it"
            )

    def require_room(self) -> None:
        """Raises SpoolDiskFullError unless the disk has room to remove later what is added now."""
        self.check_process()
        if self._ballast is None or self._ballast.is_there():
            return
        try:
            self._ballast.restore()
        except OSError:
            self._shrink("vacuum", "checkpoint")  # if the spool itself fills the disk, and holds little by now
            with self._errors():
                self._ballast.restore()

    def _shrink(self, *statements: str) -> None:
        with suppress(sqlite3.Error):
            used = self._value("count_pages") - self._value("count_free_pages")
            if "vacuum" in statements and used * PAGE_BYTES > BALLAST_BYTES:
                return
            for statement in statements:
                self._connection.execute(SQL[statement]).fetchall()

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        """The rows of a query that does not write. Raises SpoolError."""
        self.check_process()
        with self._errors():
            return self._connection.execute(SQL[query], parameters).fetchall()

    def close(self) -> None:
        """Close the file and release the lock. Raises SpoolError."""
        self.check_process()
        with self._errors():
            self._open.close()

    def remove(self) -> None:
        """Close the file, delete it and all that lies beside it, and release the lock. Raises SpoolError."""
        self.check_process()
        with self._errors():
            self._connection.close()
            self._remove_files()
            self._open.close()

    def _remove_files(self) -> None:
        """Delete the files, the lock last: who waits for it finds no spool then."""
        if self._path is not None:
            for suffix in ("", "-wal", "-shm", ".ballast", ".lock-journal", ".lock"):
                _beside(self._path, suffix).unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            kind = _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF, SpoolError)
            raise kind(f"{self}: {error}") from error
        except OSError as error:
            kind = SpoolDiskFullError if error.errno == errno.ENOSPC else SpoolError
            raise kind(f"{self}: unable to open or make a file of the spool: {error}") from error

    def _refuse_missing(self, path: Path, read_only: bool) -> None:
        """Raises SpoolError, unless a lock of it is left that is to be removed."""
        if read_only or not _beside(path, ".lock").exists():
            raise SpoolError(f"{self}: there is no such file")

    def _locked(self, path: Path) -> sqlite3.Connection:
        """The lock, held. A file that another process deleted before it was locked is no lock: then once more."""
        lock_path = _beside(path, ".lock")
        while True:
            make_private(lock_path)
            before = _identity(lock_path)
            lock = _connect(lock_path, create=True, timeout=0.0)
            try:
                lock.execute(SQL["begin_exclusive"])
            except sqlite3.Error as error:
                lock.close()
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise SpoolInUseError(f"{self} is in use by another recorder; give each its own spool") from error
                if _identity(lock_path) == before:
                    raise
                continue
            if before is not None and _identity(lock_path) == before:
                return lock
            lock.close()

    def _prepare(self, read_only: bool) -> None:
        if self._path is not None:
            _read_ahead(self._path)
        fault = self._value("check_pages")
        if fault != "ok":
            raise SpoolCorruptError(f"{self} is damaged: {fault}")
        is_new = not read_only and self._value("count_tables") == 0
        if not is_new and self._value("read_application_id") != APPLICATION_ID:
            raise SpoolError(f"{self} is an SQLite database, but not a spool")
        self.version = version = VERSION if is_new else int(self._value("read_version"))
        if version not in (1, VERSION):
            raise SpoolError(f"{self} is a spool of another version; this program reads version {VERSION}")
        if read_only:
            self._connection.execute(SQL["set_query_only"])
            return
        if self._value("set_journal_mode") not in ("wal", "memory"):
            raise SpoolError(f"{self}: SQLite's WAL mode does not work on its file system; use a local disk")
        self._connection.execute(SQL["set_synchronous"])
        self._connection.execute(SQL["set_fullfsync"])
        self._connection.execute(SQL["set_checkpoint"])
        self._connection.execute(SQL["set_temporary_store"])
        if is_new or version != VERSION:
            with self.transaction():
                for statement in _SCHEMA if is_new else _UPGRADE:
                    self._connection.execute(SQL[statement])
            self.version = VERSION

    def _value(self, query: str) -> Any:
        (value,) = self._connection.execute(SQL[query]).fetchone()
        return value


def _connect(path: Path | None, create: bool, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    name = "file::memory:" if path is None else f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"
    connection = sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None)
    connection.text_factory = _decode_text
    return connection


def _read_ahead(path: Path) -> None:
    """Read a file in order, for the check after it, which reads it page by page in an order of its own.

    Where the file is not in the system's cache, a spool of 340 MB opens with 0.9 s of CPU time instead of 2.6 s.
    """
    with suppress(OSError), path.open("rb", buffering=0) as file:  # the check tells what is wrong
        while file.read(READ_BYTES):
            pass


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    """The bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _decode_text(data: bytes) -> str:
    """Text that is no UTF-8 must not make its whole table unreadable."""
    return data.decode("utf-8", "backslashreplace")
