"""A disk that can be full: a file system of its own in a file, which root can mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GIGABYTE = 1 << 30
_CHUNKS = (16 << 20, 1 << 20, 4 << 10)


class Disk:
    """A mounted file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb") as file:
            for size in _CHUNKS:
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)

    def empty(self) -> None:
        """Free what was filled."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def mounted_disk(image: Path, folder: Path, size: int) -> Iterator[Disk | None]:
    """A disk at `folder` for the block, None where it cannot be mounted. The image is sparse: it takes what is used."""
    with image.open("wb") as file:
        file.truncate(size)
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or not _runs("mkfs.ext4", "-q", "-m", "0", "-F", str(image)):
        yield None
        return
    if not _runs("mount", "-o", "loop", str(image), str(folder)):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
