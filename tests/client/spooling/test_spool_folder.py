"""A folder of spools: a file for each process, and nothing is left behind by those that are dead."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from billing_client import BillingSystemClient, ConfigurationError, DeliveredEvent, Spool, SpoolError, SpoolInUseError
from billing_client.spooling import spool_file
from tests.client.answers import client_of, problem, record_all, usage
from tests.client.misbehaving import misbehaving
from tests.client.recorders import Hook, away, hurried, kept, records_of, settle, status_of
from tests.programs import UNMEASURED
from tests.services import Service, until

ROOT = Path(__file__).parents[3]
FORK = """
import asyncio, os, sys
from billing_client import BillingSystemClient, SpoolForkedError, Usage

def usage(name):
    return Usage(customer_id="acme", service="storage", units_consumed=1, price_per_unit=1, event_id=name)

async def record(name):
    async with BillingSystemClient(base_url="http://127.0.0.1:9") as client:
        async with client.recorder(spool_dir=sys.argv[1], close_timeout=0) as recorder:
            await recorder.record(usage(name))
            return recorder._outbox.file.path, recorder

async def main():
    async with BillingSystemClient(base_url="http://127.0.0.1:9") as client:
        async with client.recorder(spool_dir=sys.argv[1], close_timeout=0) as recorder:
            await recorder.record(usage("parent"))
            child = os.fork()
            if child == 0:
                try:
                    asyncio.run(recorder.record(usage("never")))
                except SpoolForkedError:
                    path, _ = asyncio.run(record("child"))
                    assert path != recorder._outbox.file.path
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            await recorder.record(usage("parent again"))

asyncio.run(main())
"""
LOOK = """
import os, sys
from pathlib import Path
from billing_client import Spool, SpoolInUseError

(path,) = Path(sys.argv[1]).glob("*.db")
try:
    with Spool(path) as spool:
        print(os.getpid(), "free" if spool.status().pending else "empty")
except SpoolInUseError:
    print(os.getpid(), "in use")
"""


def spools(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.db"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def left_by_the_dead(folder: Path, number: int, records: int = 3) -> None:
    """Spools of processes that are gone, as many as told."""
    for index in range(number):
        await kept(folder / f"usage-{index}.db", *(usage(index * 1_000 + n) for n in range(records)))


async def test_each_recorder_has_a_file_of_its_own_and_takes_it_away(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "spool"
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool_dir=folder)) as first,
        hurried(client.recorder(spool_dir=folder)) as second,
    ):
        await asyncio.gather(first.record(usage(1)), second.record(usage(2)))
        assert len(spools(folder)) == 2
        await settle(first)
        await settle(second)
        assert (first.counts.delivered, second.counts.delivered) == (1, 1)
    assert files(folder) == []


async def test_what_is_left_is_taken_over_by_the_next_of_which_one_is_enough(tmp_path: Path) -> None:
    await left_by_the_dead(tmp_path, 4)
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool_dir=tmp_path)) as recorder,
    ):
        assert recorder.counts.pending == 3  # one is its own now
        await until(lambda: len(spools(tmp_path)) == 1)
        await settle(recorder)
    assert recorder.counts.delivered == 12
    assert files(tmp_path) == []
    assert sum(len(records_of(request)) for request in server.requests) == 12


async def test_of_many_recorders_one_delivers_each_file(tmp_path: Path) -> None:
    hook = Hook()
    await left_by_the_dead(tmp_path, 5, records=20)
    async with misbehaving(record_all) as server, client_of(server) as client:
        recorders = [hurried(client.recorder(spool_dir=tmp_path, on_event=hook, batch_size=5)) for _ in range(3)]
        await asyncio.gather(*(recorder.__aenter__() for recorder in recorders))
        await until(lambda: len(hook.of(DeliveredEvent)) >= 100)
        await asyncio.gather(*(recorder.close() for recorder in recorders))
    sent = [record["eventId"] for request in server.requests for record in records_of(request)]
    assert len(sent) == len(set(sent)) == 100
    assert sum(recorder.counts.delivered for recorder in recorders) == 100
    assert files(tmp_path) == []


async def test_what_a_process_holds_is_left_to_it(tmp_path: Path) -> None:
    async with away() as other, hurried(other.recorder(spool_dir=tmp_path, close_timeout=0)) as living:
        await living.record(usage(1))
        async with misbehaving(record_all) as server, client_of(server) as client:
            async with hurried(client.recorder(spool_dir=tmp_path)) as recorder:
                await recorder.record(usage(2))
                await settle(recorder)
                await asyncio.sleep(0.3)  # it looked several times
            assert recorder.counts.delivered == 1
            assert living.counts.pending == 1


async def test_dead_letters_stay_and_are_delivered_once_they_are_redriven(
    client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    await left_by_the_dead(tmp_path, 1)
    await kept(tmp_path / "usage-x.db", usage(7, customer_id="later"))
    async with hurried(client.recorder(spool_dir=tmp_path)) as recorder:
        await until(lambda: recorder.counts.dead == 1)
        await until(lambda: status_of(tmp_path / "usage-x.db").dead == 1)
        await asyncio.sleep(0.3)  # it is not looked at again and again
        await client.create_customer(name="Later", customer_id="later")
        with Spool(tmp_path / "usage-x.db") as spool:
            assert spool.redrive() == 1
        await until(lambda: not (tmp_path / "usage-x.db").exists())
    assert recorder.counts.delivered == 4


async def test_a_damaged_spool_is_told_and_keeps_nobody_from_working(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await left_by_the_dead(tmp_path, 2)
    (tmp_path / "usage-0.db").write_bytes(b"no spool" * 1_000)
    (tmp_path / "other.db").write_bytes(b"not ours")
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool_dir=tmp_path)) as recorder,
    ):
        await settle(recorder)
        await until(lambda: "that a dead process left cannot be delivered" in caplog.text)
        await asyncio.sleep(0.3)
    assert recorder.counts.delivered == 3
    assert caplog.text.count("cannot be delivered") == 1
    assert spools(tmp_path) == [tmp_path / "other.db", tmp_path / "usage-0.db"]
    assert not (tmp_path / "other.db.lock").exists()


async def test_what_somebody_else_put_there_is_not_delivered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link may lead to a spool that goes to another service; a file of another user is usage of their making."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    await left_by_the_dead(folder, 1)
    await left_by_the_dead(elsewhere, 2)
    (folder / "usage-link.db").symlink_to(elsewhere / "usage-1.db")
    foreign = [folder / "usage-link.db"]
    if sys.platform != "win32" and os.geteuid() == 0:
        foreign.insert(0, (elsewhere / "usage-0.db").rename(folder / "usage-foreign.db"))
        os.chown(foreign[0], 12345, 12345)
    async with (
        misbehaving(record_all) as server,
        client_of(server) as client,
        hurried(client.recorder(spool_dir=folder)) as recorder,
    ):
        await settle(recorder)
        await asyncio.sleep(0.3)  # it looked several times
    assert recorder.counts.delivered == 3
    assert spools(folder) == foreign
    assert status_of(elsewhere / "usage-1.db").pending == 3
    assert [path for path in foreign if str(path) in caplog.text] == foreign


async def test_what_cannot_be_delivered_yet_stays_for_the_next(tmp_path: Path) -> None:
    await left_by_the_dead(tmp_path, 3)
    async with (
        misbehaving(problem(503, "unavailable")) as server,
        client_of(server, max_attempts=1) as client,
        hurried(client.recorder(spool_dir=tmp_path, close_timeout=0)) as recorder,
    ):
        await until(lambda: recorder.counts.pending == 9)
        counts = await recorder.flush(0.1)
        assert counts.pending == 9
    assert sum(status_of(path).pending for path in spools(tmp_path)) == 9


async def test_what_a_process_left_that_was_killed_while_it_made_or_removed_a_spool_goes_too(tmp_path: Path) -> None:
    for name in ("usage-a.db.lock", "usage-b.db.lock", "usage-b.db.ballast", "usage-b.db.lock-journal"):
        (tmp_path / name).write_bytes(b"")
    async with away() as client, hurried(client.recorder(spool_dir=tmp_path)):
        await until(lambda: not any(name.startswith(("usage-a", "usage-b")) for name in files(tmp_path)))
    assert files(tmp_path) == []


async def test_a_lock_that_is_deleted_before_it_is_taken_is_none(tmp_path: Path) -> None:
    spool, lock = tmp_path / "usage.db", tmp_path / "usage.db.lock"
    await kept(spool, usage(1))
    connect = spool_file._connect
    deleted: list[Path] = []

    def delete_first(path: Path | None, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(path, *arguments, **options)
        if path == lock and not deleted:
            lock.unlink()  # as another process that had removed its spool
            deleted.append(lock)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_file, "_connect", delete_first)
        with Spool(spool), pytest.raises(SpoolInUseError):
            Spool(spool)
    assert deleted


async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with away() as client:
        with pytest.raises(SpoolError, match="unable to use it as a folder of spools"):
            await client.recorder(spool_dir=tmp_path / "file").__aenter__()
        with pytest.raises(ConfigurationError, match="not both"):
            client.recorder(spool_dir=tmp_path, spool=tmp_path / "usage.db")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_takes_a_file_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(status_of(path).pending for path in spools(tmp_path)) == [1, 2]


@contextmanager
def producers(url: str, folder: Path, names: list[str], *before: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that record as fast as they can; killed at the end at the latest."""
    processes = [
        subprocess.Popen(
            [*before, sys.executable, "-m", "tests.client.producer", url, str(folder), name],
            cwd=ROOT,
            env=os.environ | UNMEASURED,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def safe_words(process: "subprocess.Popen[str]", seconds: float) -> set[str]:
    """The event ids that a process said are safe, until it is killed after so many seconds from its first word."""
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("open")
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    words = [line.split() for line in process.stdout.read().splitlines()]
    process.stdout.close()
    return {word[1] for word in words if word[0] == "safe"}


def in_a_namespace_of_its_own() -> list[str]:
    """The command that gives a process mounts of its own and the id 1, as in a container; none where not allowed."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return command if allowed else []


@pytest.mark.parametrize("place", ["processes", "containers"])
async def test_what_killed_processes_left_in_one_folder_is_billed_once(
    place: str, service: Service, client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    before = in_a_namespace_of_its_own() if place == "containers" else []
    if place == "containers" and not before:
        pytest.skip("this user may not make namespaces, so two processes cannot have one id")
    seconds = random.uniform(0.1, 0.4)
    with producers(service.url, tmp_path, ["a", "b", "c"], *before) as processes:
        said = await asyncio.gather(*(asyncio.to_thread(safe_words, each, seconds) for each in processes))
    safe = set().union(*said)
    async with hurried(client.recorder(spool_dir=tmp_path)) as recorder:
        await until(lambda: len(spools(tmp_path)) == 1)
        await settle(recorder)
    billed = [record.event_id or "" async for record in client.usage(customer_id=customer_id, page_size=1_000)]
    assert safe
    assert safe <= set(billed)
    assert len(billed) == len(set(billed))
    assert files(tmp_path) == []


async def test_a_process_of_another_container_holds_its_file_though_it_has_the_same_id(tmp_path: Path) -> None:
    before = in_a_namespace_of_its_own()
    if not before:
        pytest.skip("this user may not make namespaces, so two processes cannot have one id")

    def look() -> str:
        command = [*before, sys.executable, "-c", LOOK, str(tmp_path)]
        environment = os.environ | UNMEASURED
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout

    with producers("http://127.0.0.1:9", tmp_path, ["a"], *before) as (process,):
        assert process.stdout is not None
        assert process.stdout.readline() == "open a\n"
        assert process.stdout.readline().startswith("safe")
        assert look() == "1 in use\n"
    await until(lambda: look() == "1 free\n")  # it dies a moment after the command that made its namespaces
