"""The how-tos of Flask, Django and Celery, run as they stand in the documentation."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from billing_client import Spool, SpoolError, UsageRecord
from billing_client.blocking import BillingClient
from tests.client.test_docs import BLOCKING, blocks
from tests.programs import UNMEASURED, bare_environment
from tests.services import Service, free_port, get_status, until

ROOT = Path(__file__).parents[3]
USES = 30
CALL_DJANGO = """
import django
from django.conf import settings
from django.test import RequestFactory

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()

import views
from billing import recorder
from django.db import transaction

for number in range(3):
    print(views.render(RequestFactory().post("/"), str(number)).status_code)
try:
    with transaction.atomic():
        views.render(RequestFactory().post("/"), "rolled back")
        raise LookupError
except LookupError:
    pass
print(recorder.counts.recorded)
"""
FILES = """
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "processed_folder": "processed",
}
"""
SEND = """
import sys
from jobs import render

for number in range(*map(int, sys.argv[1:])):
    render.delay(str(number))
"""


@pytest.fixture
def example(tmp_path: Path, customer: str) -> list[str]:
    """The programs of the guide, for a customer of this test, with a spool and a broker in its folder."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "queue").mkdir()
    changes = {
        '"acme"': f'"{customer}"',
        "/var/lib/app/spool": str(tmp_path / "spool"),
        "redis://localhost": "filesystem://",
    }
    found = blocks(BLOCKING)
    for before, after in changes.items():
        found = [block.replace(before, after) for block in found]
    return found


def environment(url: str, folder: Path) -> dict[str, str]:
    path = f"{folder}{os.pathsep}{ROOT}"
    return bare_environment() | UNMEASURED | {"BILLING_BASE_URL": url, "PYTHONPATH": path}


def reports(number: int) -> set[str]:
    """The event ids of so many reports."""
    return {f"report-{each}" for each in range(number)}


@contextmanager
def running(command: list[str], service: Service, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server for the block, and stop it as a supervisor does."""
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(service.url, folder), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "output.txt").read_text()
    finally:
        process.kill()
        process.wait()


def stored(service: Service, customer: str) -> list[UsageRecord]:
    with BillingClient(base_url=service.url) as client:
        return list(client.usage(customer_id=customer))


async def test_flask_under_gunicorn_bills_each_request_of_all_workers(
    shared_service: Service, customer: str, example: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("flask")
    pytest.importorskip("gunicorn")
    (flask,) = (block for block in example if "Flask(" in block)
    (tmp_path / "web.py").write_text(flask)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers",
        "3",
        "--bind",
        f"127.0.0.1:{port}",
        "web:app",
    ]
    with running(command, shared_service, tmp_path):
        await until(lambda: get_status("127.0.0.1", port, "/") == 404)
        for number in range(USES):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", f"/reports/{number}")
            assert connection.getresponse().status == 200
            connection.close()
    records = stored(shared_service, customer)
    assert {record.event_id for record in records} == reports(USES)
    assert not list((tmp_path / "spool").glob("*.db"))


def test_django_bills_what_is_committed(
    shared_service: Service, customer: str, example: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("django")
    (views,) = (block for block in example if "HttpRequest" in block)
    (tmp_path / "views.py").write_text(views)
    (tmp_path / "billing.py").write_text(example[example.index(views) - 1])
    done = subprocess.run(
        [sys.executable, "-c", CALL_DJANGO],
        cwd=tmp_path,
        env=environment(shared_service.url, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n200\n200\n3\n", "")
    assert {record.event_id for record in stored(shared_service, customer)} == reports(3)


def safe(folder: Path) -> int:
    """How many uses are on disk, whoever holds the files."""
    total = 0
    for file in folder.glob("*.db"):
        with suppress(SpoolError), Spool(file, read_only=True) as spool:  # one that is being made is none yet
            total += spool.status().pending
    return total


@contextmanager
def celery_worker(url: str, folder: Path) -> Iterator[None]:
    """Run a worker of two processes for the block; at the end all of them are killed."""
    command = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--concurrency", "2", "--loglevel", "warning"]
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle"],
            cwd=folder,
            env=environment(url, folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
async def test_what_celery_recorded_before_it_was_killed_is_delivered_by_the_next_worker(
    shared_service: Service, customer: str, example: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("celery")
    (celery,) = (block for block in example if "Celery(" in block)
    (tmp_path / "jobs.py").write_text(celery.replace("client = ", f"{FILES}client = ", 1))
    await asyncio.to_thread(send, range(USES), tmp_path)
    with celery_worker(f"http://127.0.0.1:{free_port()}", tmp_path):  # the service is away
        await until(lambda: safe(tmp_path / "spool") == USES)
    await asyncio.to_thread(send, range(USES, USES + 2), tmp_path)
    with celery_worker(shared_service.url, tmp_path):
        await until(lambda: len(stored(shared_service, customer)) == USES + 2)
    assert {record.event_id for record in stored(shared_service, customer)} == reports(USES + 2)


def send(numbers: range, folder: Path) -> None:
    command = [sys.executable, "-c", SEND, str(numbers.start), str(numbers.stop)]
    subprocess.run(command, cwd=folder, env=environment("http://127.0.0.1:1", folder), check=True)
