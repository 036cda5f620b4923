"""`billing export`"""

import asyncio
import json
import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from billing_client.cli.exports import whole_file
from tests.calls import usage
from tests.cli import billing, billing_beside, failure, finish, given_customer, given_usage, start
from tests.client.misbehaving import answer, misbehaving, raw, silent
from tests.ledgers import made_up_usage
from tests.services import Service

COUNT = 3_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = raw(HEAD + b"4\r\n{}\r\n\r\n3\r\n{}")


@pytest.fixture
def ledger(service: Service) -> Service:
    """A service with records of two customers."""
    given_customer(service)
    given_customer(service, "beta")
    given_usage(
        service, *made_up_usage(COUNT, 1), usage(customerId="beta", service="=cmd", occurredAt="2026-01-01T00:00:00Z")
    )
    return service


def said(service: Service, query: str = "") -> bytes:
    with urlopen(f"{service.url}/usage/export{query}") as answer:
        body: bytes = answer.read()
        return body


@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_it_is_what_the_service_exports_to_the_last_byte(ledger: Service, tmp_path: Path, format_: str) -> None:
    expected = said(ledger, f"?format={format_}")
    done = start("export", "--format", format_, BILLING_BASE_URL=ledger.url)
    stdout, stderr = done.communicate()
    assert (done.returncode, stdout, stderr) == (0, expected, b"")
    file = tmp_path / f"usage.{format_}"
    written = billing("export", "-o", file, BILLING_BASE_URL=ledger.url)
    assert (written.returncode, written.stdout) == (0, f"{COUNT + 1} records in {file}\n")
    assert file.read_bytes() == expected
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert list(tmp_path.iterdir()) == [file]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_filters_and_json(ledger: Service, tmp_path: Path) -> None:
    asked = ("--customer", "acme", "--service", "storage", "--from", "2026-03-01", "--to", "2026-06-01T00:00:00Z")
    file = tmp_path / "usage"
    done = billing("export", *asked, "-o", file, "--json", BILLING_BASE_URL=ledger.url)
    expected = said(ledger, "?customerId=acme&service=storage&from=2026-03-01T00:00:00Z&to=2026-06-01T00:00:00Z")
    assert 0 < len(expected.splitlines()) < COUNT
    assert file.read_bytes() == expected
    assert json.loads(done.stdout) == {
        "records": len(expected.splitlines()),
        "bytes": len(expected),
        "file": str(file),
    }


def test_a_customer_that_is_not_there(ledger: Service, tmp_path: Path) -> None:
    done = billing("export", "--customer", "nobody", "-o", tmp_path / "usage.csv", BILLING_BASE_URL=ledger.url)
    assert "nobody" in failure(done, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_ends_it_quietly_with_141(ledger: Service) -> None:
    for read in (b"", b"{"):
        process = start("export", BILLING_BASE_URL=ledger.url)
        assert process.stdout is not None
        assert process.stdout.read(len(read)) == read
        process.stdout.close()
        _, stderr = process.communicate()
        assert (process.returncode, stderr) == (141, b"")


@pytest.mark.parametrize("command", ["export", "summary"])
def test_output_that_nobody_reads(ledger: Service, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(command, "--base-url", ledger.url, stdout=writing)
    os.close(writing)
    done = finish(process)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said_in_a_line(ledger: Service) -> None:
    for arguments in (["export"], ["export", "-o", "/dev/full"], ["summary"]):
        full = os.open("/dev/full", os.O_WRONLY)
        process = start(*arguments, "--base-url", ledger.url, stdout=full)
        os.close(full)
        assert "No space left on device" in failure(finish(process), 2)


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Path]:
    """An export of yesterday, which must be there still."""
    file = tmp_path / "usage.ndjson"
    file.write_text("yesterday\n")
    yield file
    assert file.read_text() == "yesterday\n"
    assert list(tmp_path.iterdir()) == [file]


async def test_an_export_that_breaks_leaves_the_earlier_file(earlier: Path) -> None:
    async with misbehaving(BROKEN) as server:
        done = await billing_beside("export", "-o", str(earlier), BILLING_BASE_URL=server.url)
    assert "the stream broke" in failure(done, 5)


async def test_an_export_that_is_stopped_leaves_the_earlier_file(earlier: Path) -> None:
    async with misbehaving(silent) as server:
        process = start("export", "-o", str(earlier), BILLING_BASE_URL=server.url)
        await server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        assert failure(finish(process), 130) == "stopped"


def test_a_device_takes_what_it_is_given(ledger: Service, tmp_path: Path) -> None:
    done = billing("export", "-o", "/dev/null", BILLING_BASE_URL=ledger.url)
    assert done.stdout == f"{COUNT + 1} records in /dev/null\n"
    assert not Path("/dev/null").is_file()
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    target.touch()
    link.symlink_to(target)
    assert billing("export", "-o", link, BILLING_BASE_URL=ledger.url).returncode == 0
    assert link.is_symlink()
    assert target.read_bytes() == said(ledger, "?format=csv")


def test_a_folder_that_is_not_there(ledger: Service, tmp_path: Path) -> None:
    done = billing("export", "-o", tmp_path / "nowhere" / "usage.csv", BILLING_BASE_URL=ledger.url)
    assert "nowhere" in failure(done, 2)


async def test_what_a_service_exports_cannot_steer_a_terminal() -> None:
    line = "\x1b]0;title\x07{}\x9b2J"
    async with misbehaving(answer(200, f"{line}\n".encode(), Content_Type="application/x-ndjson")) as server:
        ours, theirs = pty.openpty()
        process = start("export", BILLING_BASE_URL=server.url, stdout=theirs)
        os.close(theirs)
        assert (await asyncio.to_thread(finish, process)).returncode == 0
        assert os.read(ours, 1_000) == b"\\u001b]0;title\\u0007{}\\u009b2J\r\n"
        os.close(ours)
        piped = start("export", BILLING_BASE_URL=server.url)
        assert (await asyncio.to_thread(finish, piped)).stdout == f"{line}\n"  # a program gets what was sent


def test_a_part_that_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container each process may have the same number."""
    for number in range(1, 50):
        (tmp_path / f".usage.ndjson.{number}.part").touch()
    file = tmp_path / "usage.ndjson"
    with whole_file(file) as one, whole_file(file) as other:
        one.write(b"one")
        other.write(b"other")
    assert file.read_bytes() in (b"one", b"other")
    assert [path.name for path in tmp_path.glob("*.part") if not path.name.split(".")[-2].isdigit()] == []


async def test_what_is_no_record_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
    lines = b"[]\n"
    async with misbehaving(answer(200, lines, Content_Type="application/x-ndjson")) as server:
        done = await billing_beside("export", "-o", str(tmp_path / "usage.parquet"), BILLING_BASE_URL=server.url)
    assert "cannot be written as Parquet" in failure(done, 5)
