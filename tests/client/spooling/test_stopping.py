"""Servers that are told to stop, and those that fork: real processes of uvicorn and gunicorn."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest

from billing_client import BillingSystemClient, CustomerExistsError
from tests.client.recorders import status_of
from tests.faults.applications.names import usages_of
from tests.programs import UNMEASURED
from tests.services import Service, ServiceProcess, free_port, until

ROOT = Path(__file__).parents[3]
APP = "tests.faults.applications.fastapi_app:app"
NOBODY = "http://127.0.0.1:9"


@contextmanager
def server(
    folder: Path, module: str, *arguments: str, url: str = NOBODY, options: Mapping[str, object] | None = None
) -> Iterator[ServiceProcess]:
    """The application, run by a server of this module."""
    environment = {
        "APP_SPOOL_DIR": str(folder / "spools"),
        "APP_JOURNAL": str(folder / "journal.txt"),
        "APP_OPTIONS": json.dumps(options or {}),
        "BILLING_BASE_URL": url,
        "PYTHONPATH": str(ROOT),
        **UNMEASURED,
    }
    with ServiceProcess(folder, *arguments, environment=environment, module=module) as process:
        yield process


def post(port: int, name: str) -> tuple[int, dict[str, object]]:
    """Make a call; the status and the answer. It is repeated until the server listens, or has restarted a worker."""
    deadline = time.monotonic() + 60
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", f"/calls/{name}")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def spools(folder: Path) -> list[Path]:
    return sorted((folder / "spools").glob("*.db"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full_timeout", "graceful timeout of uvicorn"])
def test_a_server_with_a_full_spool_stops_when_it_is_told_to(kind: str, tmp_path: Path) -> None:
    port = free_port()
    limits = {"max_records": 2, "close_timeout": 0.1, "full_timeout": 1 if kind == "full_timeout" else 86_400}
    arguments = ["--port", str(port), APP]
    if kind != "full_timeout":
        arguments += ["--timeout-graceful-shutdown", "1"]
    answers: list[tuple[int, dict[str, object]]] = []

    def wait_for_room() -> None:
        with suppress(OSError, ValueError):  # the server may end the connection
            answers.append(post(port, "second"))

    with server(tmp_path, "uvicorn", *arguments, options=limits) as process:
        assert post(port, "first")[0] == 200
        waiting = Thread(target=wait_for_room)
        waiting.start()
        deadline = time.monotonic() + 60
        while "record() waits" not in process.output:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate(signal.SIGTERM, 60)
        waiting.join(60)
        assert "holds 2 pending records" in process.output  # the recorder was closed in order
    assert [status_of(path).pending for path in spools(tmp_path)] == [2]
    if kind == "full_timeout":
        ((status, body),) = answers
        assert status == 503
        assert "the spool is full for 1 s" in str(body["error"])
    else:
        assert "the recorder was closed while its spool was full" in process.output


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
async def test_workers_of_gunicorn_have_a_file_each_and_leave_nothing(shared_service: Service, tmp_path: Path) -> None:
    port = free_port()
    arguments = ["-k", "uvicorn_worker.UvicornWorker", "--preload", "-b", f"127.0.0.1:{port}", APP]
    names = [f"{tmp_path.name}-{number}" for number in range(12)]
    async with BillingSystemClient(base_url=shared_service.url) as client:
        for customer_id in {usage.customer_id for name in names for usage in usages_of(name)}:
            with suppress(CustomerExistsError):
                await client.create_customer(name="Customer", customer_id=customer_id)
        with server(tmp_path, "gunicorn", "-w", "2", *arguments, options={"close_timeout": 0}) as two:
            for name in names[:8]:  # which they cannot deliver yet
                status, body = await asyncio.to_thread(post, port, name)
                assert status == 200
            await until(lambda: len(spools(tmp_path)) == 2)
            os.kill(int(str(body["pid"])), signal.SIGKILL)
            assert two.terminate() == 0
        assert sum(status_of(path).pending for path in spools(tmp_path)) == 16
        with server(tmp_path, "gunicorn", "-w", "1", *arguments, url=shared_service.url) as one:
            for name in names[8:]:
                assert (await asyncio.to_thread(post, port, name))[0] == 200
            await until(lambda: len(spools(tmp_path)) == 1)
            assert one.terminate() == 0
        billed = {
            record.event_id: record.units_consumed
            for customer_id in {usage.customer_id for name in names for usage in usages_of(name)}
            async for record in client.usage(customer_id=customer_id, page_size=1_000)
        }
    for name in names:
        for usage in usages_of(name):
            assert str(billed[usage.event_id]) == str(usage.units_consumed)
    assert spools(tmp_path) == []
