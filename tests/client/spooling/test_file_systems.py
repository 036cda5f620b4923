"""Where a spool is not safe, a warning says so at the start."""

from pathlib import Path

import pytest

from billing_client.spooling.file_systems import MOUNTS, file_system_of, warn_of_file_system
from tests.client.answers import usage
from tests.client.recorders import kept

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:22 / /dev/shm rw shared:2 - tmpfs tmpfs rw
24 22 0:45 / /mnt/nfs rw - nfs4 server:/export rw
25 24 0:46 / /mnt/nfs/local rw - xfs /dev/vdb rw
26 22 0:47 / /mnt/with\040space rw shared:9 master:1 - fuse.sshfs host:/ rw
27 22 0:48 / /mnt/over rw - ext4 /dev/vdc rw
28 22 0:49 / /mnt/over rw - tmpfs tmpfs rw
""".lstrip()


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    return path


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/var/spool/usage.db", "ext4", None),
        ("/dev/shm/usage.db", "tmpfs", "in memory"),
        ("/mnt/nfs/spool/usage.db", "nfs4", "network"),
        ("/mnt/nfs/local/usage.db", "xfs", None),
        ("/mnt/nfsx/usage.db", "ext4", None),
        ("/mnt/with space/usage.db", "fuse.sshfs", "network"),
        ("/mnt/over/usage.db", "tmpfs", "in memory"),
    ],
)
def test_the_file_system_of_a_path(
    path: str, kind: str, words: str | None, mounts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert file_system_of(Path(path), mounts) == kind
    warn_of_file_system(Path(path), mounts)
    assert (caplog.text == "") if words is None else (words in caplog.text and path in caplog.text)


def test_a_system_that_does_not_tell_is_no_trouble(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "nothing") == ""


@pytest.mark.skipif(file_system_of(Path("/dev/shm")) != "tmpfs", reason="only where /dev/shm is in memory")
async def test_a_recorder_says_so_at_its_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert MOUNTS.exists()
    spool = Path("/dev/shm") / f"usage-{tmp_path.parent.name}-{tmp_path.name}.db"
    try:
        await kept(spool, usage(1))
    finally:
        for path in spool.parent.glob(f"{spool.name}*"):
            path.unlink()
    assert f"{spool} is on a file system in memory (tmpfs)" in caplog.text
