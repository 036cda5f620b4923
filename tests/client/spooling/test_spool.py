"""The file of a spool: what it says offline, and a clear answer where it cannot be used."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from billing_client import (
    BillingSystemClient,
    DeadEvent,
    Spool,
    SpoolCorruptError,
    SpoolDiskFullError,
    SpoolError,
    SpoolInUseError,
    UsageRecorder,
)
from billing_client.spooling.spool_file import VERSION
from tests.cli import billing_beside
from tests.client.answers import usage
from tests.client.recorders import Hook, away, in_spool_thread, kept, settle, status_of
from tests.services import Service

HOLD = """
import sys
from billing_client import Spool
with Spool(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """
import asyncio, gc, os, sys
from billing_client import BillingSystemClient, SpoolForkedError, Usage

USAGE = dict(customer_id="acme", service="storage", units_consumed=1, price_per_unit=1)

async def use(recorder, parent):
    for call in (recorder.record(**USAGE), recorder.flush(), recorder.status(), recorder.close()):
        try:
            await call
        except SpoolForkedError as error:
            print(f"process {parent}" in str(error), flush=True)

async def main():
    async with BillingSystemClient(base_url="http://127.0.0.1:9") as client:
        async with client.recorder(spool=sys.argv[1], close_timeout=0) as recorder:
            for number in range(3):
                await recorder.record(**USAGE, event_id=f"before-{number}")
            parent, child = os.getpid(), os.fork()
            if child == 0:
                asyncio.run(use(recorder, parent))
                vars(recorder._outbox.file).clear()  # as if the child had forgotten the recorder
                gc.collect()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            for number in range(3):
                await recorder.record(**USAGE, event_id=f"after-{number}")

asyncio.run(main())
"""


async def test_a_spool_says_what_it_holds(client: BillingSystemClient, customer_id: str, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    before = datetime.now(UTC)
    async with client.recorder(spool=spool) as recorder:
        await recorder.record(usage(1, customer_id="nobody"))
        await settle(recorder)
    await kept(spool, usage(2), usage(3))
    with Spool(spool) as found:
        status = found.status()
        (letter,) = found.dead_letters()
        assert (status.pending, status.dead) == (2, 1)
        assert status.oldest is not None
        assert before <= letter.recorded_at <= letter.dead_at <= status.oldest <= datetime.now(UTC)
        assert letter.usage is not None
        assert (letter.usage.event_id, letter.attempts, letter.problem.status) == ("event-1", 1, 404)
        assert found.redrive(["no such id"]) == found.discard(["no such id"]) == 0
        assert found.redrive([letter.request_id]) == 1
        assert (found.status().pending, found.status().dead) == (3, 0)
        assert found.redrive() == 0
    await client.create_customer(name="Nobody", customer_id="nobody")
    async with client.recorder(spool=spool) as recorder:
        await settle(recorder)
    assert recorder.counts.delivered == 3
    assert status_of(spool) == type(status)(pending=0, attempted=0, dead=0, delivered=0, bytes=0, oldest=None)


async def test_a_spool_can_be_looked_at_while_a_recorder_uses_it_and_not_changed(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        await recorder.record(usage(1))
        with Spool(spool, read_only=True) as found:
            assert found.status().pending == 1
            with pytest.raises(SpoolError, match="readonly"):
                found.redrive()
        with pytest.raises(SpoolInUseError, match="in use by another recorder"):
            Spool(spool)
        await recorder.record(usage(2))


async def test_two_recorders_on_one_spool_are_one_too_many(tmp_path: Path) -> None:
    spool, link = tmp_path / "usage.db", tmp_path / "link.db"
    link.symlink_to(spool)
    async with away() as client:
        async with client.recorder(spool=spool, close_timeout=0) as recorder:
            for path in (spool, link):
                with pytest.raises(SpoolInUseError):
                    await client.recorder(spool=path).__aenter__()
            await recorder.record(usage(1))
        async with client.recorder(spool=spool, close_timeout=0) as recorder:
            assert recorder.counts.pending == 1


def test_a_spool_that_another_process_holds_is_free_once_it_is_killed(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    asyncio.run(kept(spool, usage(1)))
    command = [sys.executable, "-c", HOLD, str(spool)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SpoolInUseError):
            asyncio.run(opened(spool))
        holder.kill()
        holder.wait()
        asyncio.run(kept(spool, usage(2)))
    assert status_of(spool).pending == 2


async def opened(spool: Path) -> UsageRecorder:
    async with away() as client:
        return await client.recorder(spool=spool).__aenter__()


@pytest.mark.parametrize("pages", ["the first", "a later one", "all"])
async def test_a_damaged_spool_is_refused_and_left_as_it_is(pages: str, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, *(usage(number) for number in range(100)))
    data = bytearray(spool.read_bytes())
    where = {"the first": slice(0, 100), "a later one": slice(3 * 4096, 4 * 4096), "all": slice(0, len(data))}[pages]
    data[where] = os.urandom(len(data[where]))
    spool.write_bytes(data)
    with pytest.raises(SpoolCorruptError, match=str(spool)):
        await opened(spool)
    with pytest.raises(SpoolCorruptError):
        Spool(spool, read_only=True)
    assert spool.read_bytes() == data


async def test_what_is_found_to_be_damaged_later_is_told_then(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, *(usage(number) for number in range(100)))
    with Spool(spool) as found:
        found._file._connection.execute("PRAGMA shrink_memory")  # forget the pages that it has read
        with spool.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(spool.stat().st_size - 4096))
        with pytest.raises(SpoolCorruptError, match=str(spool)):
            found.status()


async def test_a_file_that_is_no_spool_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text, foreign = tmp_path / "usage.txt", tmp_path / "other.db"
    text.write_text("service,units\n" * 1_000)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()
    for spool, error in ((text, SpoolCorruptError), (foreign, SpoolError)):
        before = spool.read_bytes()
        with pytest.raises(error):
            await opened(spool)
        assert spool.read_bytes() == before


async def test_a_spool_of_another_version_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1))
    with sqlite3.connect(spool) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(SpoolError, match="a spool of another version"):
        await opened(spool)


def tamper(spool: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(spool)) as connection, connection:
        connection.execute(statement, parameters)


TAMPERED = {
    "a key of bytes": "UPDATE pending SET idempotency_key = x'6b' WHERE seq = 2",
    "a key that no header can carry": "UPDATE pending SET idempotency_key = 'a' || char(10) || 'b' WHERE seq = 2",
    "a request id of bytes": "UPDATE pending SET request_id = x'ff' WHERE seq = 2",
    "another request id": "UPDATE pending SET request_id = 'ab' WHERE seq = 2",
    "attempts of text": "UPDATE pending SET attempts = 'many' WHERE seq = 2",
    "a body of text": "UPDATE pending SET body = CAST(body AS TEXT) WHERE seq = 2",
    "a body of no bytes": "UPDATE pending SET body = 5 WHERE seq = 2",
    "a body that is no usage": "UPDATE pending SET body = CAST('{}' AS BLOB) WHERE seq = 2",
    "a body of two": "UPDATE pending SET body = CAST(body || char(44) || body AS BLOB) WHERE seq = 2",
    "a time of nothing": "UPDATE pending SET recorded_at = 'today', attempts = 'many' WHERE seq = 2",
    "text that is no UTF-8": "UPDATE pending SET request_id = CAST(x'ff' AS TEXT) WHERE seq = 2",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED.keys())
async def test_a_row_that_is_no_record_is_a_dead_letter_and_in_nobodys_way(
    client: BillingSystemClient, customer_id: str, tmp_path: Path, statement: str
) -> None:
    spool, hook = tmp_path / "usage.db", Hook()
    await kept(spool, usage(1), usage(2), usage(3))
    tamper(spool, statement)
    assert status_of(spool).pending == 3
    async with client.recorder(spool=spool, on_event=hook) as recorder:
        await settle(recorder)
        (letter,) = await recorder.dead_letters()
    (event,) = hook.of(DeadEvent)
    assert (event.usage, event.body, event.request_id) == (letter.usage, letter.body, letter.request_id)
    assert event.error.detail == letter.problem.detail
    assert (recorder.counts.delivered, recorder.counts.dead) == (2, 1)
    assert letter.problem.status == 400
    stored = {record.event_id async for record in client.usage(customer_id=customer_id)}
    assert stored - {"event-2"} == {"event-1", "event-3"}  # a body that is usage was sent before it was looked at
    for options in ((), ("--json",)):
        shown = await billing_beside("spool", "status", spool, "--dead", *options)
        assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 1 if options else 2)


@pytest.mark.parametrize(
    "change",
    ["body = 'none'", "body = 7", "dead_at = 'today'", "problem = '?'", "attempts = 'x'", "request_id = x'ff'"],
)
async def test_a_dead_letter_that_was_tampered_with_can_be_listed(tmp_path: Path, change: str) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1))
    columns = "seq, idempotency_key, request_id, recorded_at, attempts, body"
    tamper(spool, f"INSERT INTO dead SELECT {columns}, recorded_at, CAST('{{}}' AS BLOB) FROM pending")
    tamper(spool, f"UPDATE dead SET {change}")
    with Spool(spool, read_only=True) as found:
        (letter,) = found.dead_letters()
    assert (letter.usage is None) == change.startswith("body")
    assert letter.body in (b"none", b"7") or letter.usage is not None
    for options in ((), ("--json",)):
        shown = await billing_beside("spool", "status", spool, "--dead", *options)
        assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 1 if options else 2)


async def test_a_time_that_is_none_does_not_hide_what_a_spool_holds(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1))
    tamper(spool, "UPDATE pending SET recorded_at = 'today'")
    assert (status_of(spool).pending, status_of(spool).oldest) == (1, None)


def test_a_spool_that_is_not_there_is_only_made_by_a_recorder(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="there is no such file"):
        Spool(tmp_path / "usage.db")
    with pytest.raises(SpoolError, match="unable to open"):
        asyncio.run(opened(tmp_path / "no such folder" / "usage.db"))
    assert list(tmp_path.iterdir()) == []
    asyncio.run(kept(tmp_path / "a name with ?#% and spaces.db", usage(1)))
    assert status_of(tmp_path / "a name with ?#% and spaces.db").pending == 1


async def test_a_lock_that_cannot_be_taken_is_told(tmp_path: Path) -> None:
    (tmp_path / "usage.db.lock").write_text("held by hand\n" * 100)
    with pytest.raises(SpoolError, match="not a database"):
        await opened(tmp_path / "usage.db")


async def test_delivery_goes_on_once_the_spool_can_be_written_again(
    client: BillingSystemClient, customer_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await kept(tmp_path / "usage.db", usage(1), usage(2))
    async with client.recorder(spool=tmp_path / "usage.db") as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA query_only = ON")
        await recorder.flush(0.5)
        await in_spool_thread(recorder, connection.execute, "PRAGMA query_only = OFF")
        await settle(recorder)
    assert "nothing is delivered for now" in caplog.text
    assert recorder.counts.delivered == 2


def test_a_forked_child_is_told_to_make_its_own_and_harms_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "usage.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 4), done.stderr
    assert status_of(tmp_path / "usage.db").pending == 6


async def fill(recorder: UsageRecorder) -> int:
    """Record until the disk is full; how many records were taken."""
    for number in range(1_000_000):
        try:
            await recorder.record(usage(number))
        except SpoolDiskFullError:
            break
    # as many at once get the same answer, and none of them is kept
    results = await asyncio.gather(*(recorder.record(usage(-n)) for n in range(1, 50)), return_exceptions=True)
    assert {type(result) for result in results} == {SpoolDiskFullError}
    assert recorder.counts.recorded == recorder.counts.pending == (await recorder.status()).pending == number
    return number


async def test_a_spool_that_may_not_grow_is_told_and_all_is_well_when_it_may(tmp_path: Path) -> None:
    async with away() as client, client.recorder(spool=tmp_path / "usage.db", close_timeout=0) as recorder:
        connection = recorder._outbox.file._connection
        await in_spool_thread(recorder, connection.execute, "PRAGMA max_page_count = 20")
        taken = await fill(recorder)
        assert taken > 0
        await in_spool_thread(recorder, connection.execute, "PRAGMA max_page_count = 1000000")
        await recorder.record(usage(taken))
    assert status_of(tmp_path / "usage.db").pending == taken + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("who runs the tests may not mount; a bound on pages stands in for the disk in the test above")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_spool_that_filled_its_disk_is_delivered_and_takes_usage_again(
    small_disk: Path, service: Service, customer_id: str
) -> None:
    spool = small_disk / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        taken = await fill(recorder)
        assert taken > 0
    rest = small_disk / "rest"
    with suppress(OSError), rest.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1_000))  # others fill what is left
    async with BillingSystemClient(base_url=service.url) as client:
        async with client.recorder(spool=spool) as recorder:
            await settle(recorder)
            assert recorder.counts.delivered == taken
            await recorder.record(usage(taken))
            await settle(recorder)
        total = (await client.summary(customer_id=customer_id)).total
    assert total.records == taken + 1


async def test_a_full_disk_is_told_and_all_is_well_when_there_is_room_again(small_disk: Path) -> None:
    other = small_disk / "other"
    async with away() as client, client.recorder(spool=small_disk / "usage.db", close_timeout=0) as recorder:
        other.write_bytes(bytes(4 * 1024 * 1024))
        taken = await fill(recorder)
        assert taken > 0
        other.unlink()
        await recorder.record(usage(taken))
    assert status_of(small_disk / "usage.db").pending == taken + 1


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
async def test_nobody_else_can_read_a_spool(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    umask = os.umask(0)
    try:
        await kept(spool, usage(1))
        spool.chmod(0o664)  # as an earlier version made it
        async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
            await recorder.record(usage(2))
            modes = modes_in(tmp_path)
    finally:
        os.umask(umask)
    assert modes.keys() >= {"usage.db", "usage.db-wal", "usage.db-shm", "usage.db.lock", "usage.db.ballast"}
    assert set(modes.values()) == {0o600}
