"""A folder of spools: each process has a file of its own in it, and the locks tell whose process is dead."""

import logging
import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from billing_client._errors import SpoolError, SpoolInUseError
from billing_client.contract.wire import printable
from billing_client.spooling.spool_file import SpoolFile

PATTERN = "usage*.db"

_logger = logging.getLogger(__name__)


def spools_in(folder: Path) -> list[Path]:
    """The spools in a folder, by name. Raises OSError."""
    return sorted(path for path in folder.glob(PATTERN) if path.is_file())


def own_spools_in(folder: Path) -> list[Path]:
    """The spools in a folder that may be delivered in the name of this process, by name. Raises OSError.

    What somebody else put there is usage of their making, or leads to a spool that goes to another service: links, and
    files of other users. The others are those of `foreign_spools_in`.
    """
    return [path for path in spools_in(folder) if _is_own(path)]


def foreign_spools_in(folder: Path) -> list[Path]:
    """The spools in a folder that are left alone. Raises OSError."""
    return [path for path in spools_in(folder) if not _is_own(path)]


def _is_own(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True  # its process has removed it
    return stat.S_ISREG(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def locks_left_in(folder: Path) -> list[Path]:
    """The spools of which only the lock is left, as if a process was killed while it made or removed one."""
    locks = (path.with_suffix("") for path in folder.glob(f"{PATTERN}.lock") if _is_own(path))
    return sorted(path for path in locks if not os.path.lexists(path))


def open_own(folder: Path) -> SpoolFile:
    """A spool in this folder for this process alone: one that a dead process left, or a new one. Raises SpoolError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = own_spools_in(folder)
        foreign = foreign_spools_in(folder)
    except OSError as error:
        raise SpoolError(f"{folder}: unable to use it as a folder of spools: {error}") from error
    for path in foreign:
        text = "%s is a link, or belongs to another user, and is not delivered; chown it if it is yours"
        _logger.error(text, printable(str(path)))  # somebody else named it
    return _first_free(left) or SpoolFile(_new_name(folder), create=True, read_only=False)


def _first_free(paths: Iterable[Path]) -> SpoolFile | None:
    for path in paths:
        try:
            return SpoolFile(path, create=False, read_only=False)
        except SpoolInUseError:
            continue
        except SpoolError as error:
            _logger.error("a spool that a dead process left cannot be used, and stays where it is: %s", error)  # noqa: TRY400 - an operator needs no traceback
    return None


def _new_name(folder: Path) -> Path:
    return folder / f"usage-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:12]}.db"
