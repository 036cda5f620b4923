"""The files of a spool on disk: nobody but their owner reads them, and one keeps room for a full disk."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

BALLAST_BYTES = 2 * 1024 * 1024
PRIVATE = 0o600


def make_private(path: Path) -> None:
    """Make a file that only its owner may read, or take the rights of others away from one that exists.

    SQLite gives the files that it makes beside a database (`-wal`, `-shm`) the rights of the database. What is no file
    of its own is left alone: who put a link there may want the rights of another file changed. Raises OSError.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))
    except FileExistsError:
        for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            with suppress(FileNotFoundError):
                found = each.lstat()
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "it is no regular file, or a link", str(each)) from None
                mode = stat.S_IMODE(found.st_mode)
                if mode & 0o077:
                    each.chmod(mode & 0o700)


class Ballast:
    """A file that holds BALLAST_BYTES of the disk, to be given up when the disk is full.

    To remove what was delivered, SQLite needs room too: for its write-ahead log, and for the log's pages in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_there(self) -> bool:
        """Whether it holds its room."""
        try:
            return self._path.stat().st_size == BALLAST_BYTES
        except OSError:
            return False

    def give_up(self) -> None:
        """Free its room."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def restore(self) -> None:
        """Take its room again. Raises OSError if the disk has none."""
        if shutil.disk_usage(self._path.parent).free < BALLAST_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.give_up()  # a process may have been killed while it wrote it
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
            with os.fdopen(file, "wb") as ballast:
                ballast.write(os.urandom(BALLAST_BYTES))  # zeros may take no room
                ballast.flush()
                os.fsync(file)
        except OSError:
            self.give_up()
            raise
