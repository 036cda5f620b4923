"""Files that are not what they seem, or are taken away: what was acknowledged is delivered or told, and nothing else
is touched."""

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from billing_client import Spool, SpoolCorruptError, SpoolError
from tests.client.answers import client_of, record_all, usage
from tests.client.misbehaving import misbehaving
from tests.client.recorders import away, settle, status_of


def link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize("name", ["usage-1.db.lock", "usage-1.db-wal"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
async def test_what_lies_in_the_place_of_a_file_is_left_alone(name: str, kind: str, tmp_path: Path) -> None:
    """A link would have the rights of the file that it leads to taken away."""
    folder, other = tmp_path / "spools", tmp_path / "other"
    folder.mkdir()
    other.write_text("somebody's")
    other.chmod(0o644)
    make = {"link": link_to(other), "folder": Path.mkdir, "pipe": os.mkfifo}[kind]
    make(folder / name)
    if name.endswith("-wal"):
        (folder / "usage-1.db").touch()
    async with misbehaving(record_all) as server, client_of(server) as client:
        with pytest.raises(SpoolError):
            async with asyncio.timeout(10), client.recorder(spool=folder / "usage-1.db"):
                pass
        async with client.recorder(spool_dir=folder) as recorder:
            await recorder.record(usage(1))
            await settle(recorder)
    assert recorder.counts.delivered == 1
    assert (stat.S_IMODE(other.stat().st_mode), other.read_text()) == (0o644, "somebody's")


@pytest.mark.parametrize("left", [None, b""])
async def test_a_log_without_its_file_is_told_and_not_deleted(left: bytes | None, tmp_path: Path) -> None:
    """SQLite would delete it, and with it what `record()` had acknowledged."""
    spool, log = tmp_path / "usage.db", tmp_path / "usage.db-wal"
    async with away() as client, client.recorder(spool=tmp_path / "live.db", close_timeout=0) as recorder:
        await recorder.record(usage(1))
        shutil.copy(tmp_path / "live.db", tmp_path / "saved.db")
        shutil.copy(tmp_path / "live.db-wal", log)
    if left is not None:
        spool.write_bytes(left)
    size = log.stat().st_size
    async with away() as client:
        with pytest.raises(SpoolCorruptError, match=r"its log .*usage\.db-wal is not; put the file back"):
            async with client.recorder(spool=spool):
                pass
    with pytest.raises(SpoolError):
        Spool(spool)
    assert log.stat().st_size == size
    shutil.copy(tmp_path / "saved.db", spool)
    assert status_of(spool).pending == 1


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_nothing_is_acknowledged_once_the_file_is_gone(suffix: str, tmp_path: Path) -> None:
    """Something that tidies up deletes old files. What is written to a deleted file goes with its process."""
    spool, aside = tmp_path / "usage.db", tmp_path / "aside"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        await recorder.record(usage(1))
        os.rename(f"{spool}{suffix}", aside)  # noqa: PTH104 - a pathlib call would be taken for one that blocks
        with pytest.raises(SpoolError, match="was removed or moved while it is in use"):
            await recorder.record(usage(2))
        os.rename(aside, f"{spool}{suffix}")  # noqa: PTH104 - as above
        await recorder.record(usage(3))
    assert recorder.counts.recorded == status_of(spool).pending == 2
