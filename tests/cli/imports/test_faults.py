"""`billing import` that is stopped, cut off or refused: one line, the right exit code, and nothing lost or doubled."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from billing_service.settings import Settings
from tests.calls import exchange, request_head, usage
from tests.cli import billing, billing_beside, failure, finish, given_customer, start
from tests.cli.imports.bills import (
    exact_total,
    import_file,
    left_of,
    line,
    read_import,
    stored,
    write_bill,
    write_ndjson,
)
from tests.client.answers import json_answer, problem
from tests.client.misbehaving import Step, misbehaving, silent
from tests.services import STARTUP_SECONDS, Service, ServiceProcess, free_port, serve_process

COUNT = 2_000
NO_CUSTOMERS = json_answer(200, {"data": [], "nextCursor": None})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is imported in many batches."""
    usages = (usage(unitsConsumed=number, eventId=f"e-{number}") for number in range(COUNT))
    return write_ndjson(tmp_path / "usage.ndjson", *usages)


def slow_import(file: Path, url: str, *options: str) -> "subprocess.Popen[bytes]":
    return start("import", file, "--batch-size", "2", *options, BILLING_BASE_URL=url)


def records(service: Service) -> int:
    total = exchange(service, request_head("GET", "/customers/acme/summary")).require(200)["total"]
    return int(total["records"])


def await_some(process: "subprocess.Popen[bytes]", count: Callable[[], int]) -> None:
    """Wait until an import has recorded something; it must not have ended."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while count() < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None


def assert_whole(service: Service) -> None:
    kept = stored(service, "acme")
    assert sorted(int(record.units_consumed) for record in kept) == list(range(COUNT))
    total = exchange(service, request_head("GET", "/customers/acme/summary")).require(200)["total"]
    assert total["amount"] == exact_total((str(number), "0.02") for number in range(COUNT))


def test_ctrl_c_and_again(service: Service, file: Path) -> None:
    given_customer(service)
    process = slow_import(file, service.url)
    await_some(process, lambda: records(service))
    process.send_signal(signal.SIGINT)
    words = failure(finish(process), 130)
    assert words.startswith("stopped after ")
    assert "Run it again: what is recorded will not be recorded twice" in words
    before = records(service)
    assert 10 <= before < COUNT

    again = import_file(file, service, "--batch-size", "2")
    assert again.lines == {"lines read": COUNT, "recorded": COUNT - before, "replayed": before}
    assert again.totals[0] == again.totals[1]
    assert_whole(service)


def test_a_service_that_is_killed_and_comes_back(database_url: str, tmp_path: Path, file: Path) -> None:
    with serve_process(tmp_path / "one", database_url) as served:
        reached = Service(served.url, served.host, served.port, Settings(database_url=database_url))
        given_customer(reached)
        process = slow_import(file, served.url)
        await_some(process, lambda: records(reached))
        served.service.kill()
        with ServiceProcess(
            tmp_path / "two", "serve", "--port", str(served.port), environment={"DATABASE_URL": database_url}
        ) as second:
            second.await_ready(served.port)
            done = read_import(finish(process))
            assert done.code == 0
            assert done.lines == {"lines read": COUNT} | {
                name: count for name, count in done.lines.items() if name in ("recorded", "replayed")
            }
            assert done.totals[0] == done.totals[1]
            assert_whole(reached)


def test_a_service_that_is_killed_and_stays_away(database_url: str, tmp_path: Path, file: Path) -> None:
    with serve_process(tmp_path / "one", database_url) as served:
        reached = Service(served.url, served.host, served.port, Settings(database_url=database_url))
        given_customer(reached)
        process = slow_import(file, served.url, "--timeout", "2", "--json")
        await_some(process, lambda: records(reached))
        served.service.kill()
        stopped = finish(process)
    error = json.loads(stopped.stderr)["error"]
    assert stopped.returncode == error["exitCode"]
    assert stopped.returncode in (5, 6)  # the batch under way was sent, or it was not
    assert (error["outcome"] == "unknown") == (stopped.returncode == 6)
    assert error["detail"].startswith(f"stopped after {error['read']} lines. ")
    assert "Run it again" in error["detail"]
    assert "--idempotency-key" not in error["detail"]
    assert 0 < error["recorded"] == error["read"] < COUNT
    with serve_process(tmp_path / "two", database_url) as served:
        reached = Service(served.url, served.host, served.port, Settings(database_url=database_url))
        assert import_file(file, reached, "--batch-size", "2").totals[0] == exact_total(
            (str(number), "0.02") for number in range(COUNT)
        )
        assert_whole(reached)


def test_where_there_is_no_service_it_says_so_at_once(tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"))
    (tmp_path / "bill.rejected.csv").write_text("of yesterday")
    url = f"http://127.0.0.1:{free_port()}"
    words = failure(billing("import", bill, "--base-url", url), 5)
    assert words.startswith(f"stopped after 0 lines. {url}: ")
    assert "Run it again" in words
    assert (tmp_path / "bill.rejected.csv").read_text() == "of yesterday"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((problem(401, "unauthenticated"),), 4),
        ((problem(403, "forbidden"), problem(403, "forbidden")), 4),  # a key need not list customers
        ((NO_CUSTOMERS, problem(403, "forbidden")), 4),
        ((NO_CUSTOMERS, problem(500, "internal_error")), 6),
        ((NO_CUSTOMERS, silent), 6),
    ],
)
async def test_what_stops_a_whole_import(file: Path, script: tuple[Step, ...], code: int) -> None:
    async with misbehaving(*script) as server:
        stopped = await billing_beside("import", str(file), "--timeout", "2", BILLING_BASE_URL=server.url)
        assert len(server.requests) >= len(script)
    assert failure(stopped, code).startswith("stopped after 0 lines. ")


async def test_batches_that_are_too_large_for_the_service(file: Path) -> None:
    async with misbehaving(NO_CUSTOMERS, problem(413, "payload_too_large")) as server:
        stopped = await billing_beside("import", str(file), BILLING_BASE_URL=server.url)
    assert "Run it again with a smaller --batch-size" in failure(stopped, 1)


async def test_the_same_batches_carry_the_same_keys(file: Path) -> None:
    keys = []
    for size in ("500", "500", "499"):
        async with misbehaving(NO_CUSTOMERS, silent) as server:
            process = start("import", file, "--batch-size", size, BILLING_BASE_URL=server.url)
            await server.wait_for_requests(2)
            process.send_signal(signal.SIGINT)
            failure(await asyncio.to_thread(finish, process), 130)
            keys.append(server.requests[1].header("Idempotency-Key"))
    assert keys[0] == keys[1] != keys[2]


def test_rejects_that_cannot_be_written_are_said_in_a_line(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    file = write_ndjson(tmp_path / "usage.ndjson", usage(), usage(unitsConsumed=-1))
    (tmp_path / "usage.rejected.ndjson").mkdir()
    assert "usage.rejected.ndjson" in failure(billing("import", file, BILLING_BASE_URL=service.url), 2)


def test_refused_lines_go_through_no_link(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    file = write_ndjson(tmp_path / "usage.ndjson", usage(unitsConsumed="many"))
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "usage.rejected.ndjson").symlink_to(precious)
    assert "usage.rejected.ndjson" in failure(billing("import", file, BILLING_BASE_URL=service.url), 2)
    assert precious.read_text() == "precious"


def peak_memory(file: Path, url: str) -> int:
    """The memory, in KiB, that a dry run of a file takes at most."""
    command = [sys.executable, "-m", "billing_client.cli", "import", str(file), "--dry-run", "--base-url", url]
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(subprocess.run([sys.executable, "-c", program, *command], capture_output=True, check=True).stdout)


def test_memory_does_not_grow_with_the_file(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    long, count = " " * 2_000, 50_000  # 100 MB
    little, much = tmp_path / "little.ndjson", tmp_path / "much.ndjson"
    for file, lines in ((little, 2_000), (much, count)):
        with file.open("w") as text:
            for number in range(lines):
                text.write(json.dumps(usage(eventId=f"e-{number}")).replace(",", f",{long}", 1) + "\n")
    assert peak_memory(much, service.url) - peak_memory(little, service.url) < 25_000
    assert len(left_of(much, "missing")) == count


def on_terminal(*arguments: str | Path, url: str) -> tuple[str, str]:
    """What a command prints on standard output, and on a terminal as its standard error."""
    ours, theirs = pty.openpty()
    process = start(*arguments, BILLING_BASE_URL=url, TERM="xterm", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65_536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    done = finish(process)
    assert done.returncode == 0, shown
    return done.stdout, shown.decode()


def test_a_bar_on_a_terminal_and_nothing_of_it_elsewhere(service: Service, file: Path) -> None:
    given_customer(service)
    stdout, shown = on_terminal("import", file, "--batch-size", "100", url=service.url)
    assert "100%" in shown
    assert "lines" in shown
    assert stdout.startswith("lines read")
    assert "\x1b" not in stdout
    done = billing("import", file, BILLING_BASE_URL=service.url, TERM="xterm", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
