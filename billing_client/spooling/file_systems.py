"""Tells where a spool is not safe: in memory, or where other machines write too."""

import logging
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # Linux alone has it; see proc_pid_mountinfo(5)
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
OVER_THE_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "9p", "lustre", "beegfs"}
)

_logger = logging.getLogger(__name__)


def warn_of_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Log a warning if what lies on this path is lost with the machine, or not safe from other machines."""
    kind = file_system_of(path, mounts)
    if kind in IN_MEMORY:
        text = "%s is on a file system in memory (%s): a restart of the machine loses it. Keep a spool on a local disk"
        _logger.warning(text, path, kind)
    elif kind.removeprefix("fuse.") in OVER_THE_NETWORK | {"sshfs", "s3fs", "rclone"}:
        text = "%s is on a network file system (%s), where locks and SQLite's WAL fail. Keep a spool on a local disk"
        _logger.warning(text, path, kind)


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that a path is on, "" where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    mounted = [(_unescaped(fields[4]), fields[fields.index("-") + 1]) for fields in map(str.split, lines)]
    resolved = path.resolve()
    under = [(len(point.parts), kind) for point, kind in mounted if resolved.is_relative_to(point)]
    return max(reversed(under), key=lambda each: each[0])[1] if under else ""


def _unescaped(point: str) -> Path:
    """A mount point, in which the kernel writes white space as octal escapes."""
    for escape in ("\\040", "\\011", "\\012", "\\134"):
        point = point.replace(escape, chr(int(escape[1:], 8)))
    return Path(point)
