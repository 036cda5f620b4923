"""examples/fastapi_llm.py on three workers, while clients hang up and workers and the service are killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from billing_client import BillingError, BillingSystemClient, UsageRecord
from tests.examples import ROOT
from tests.programs import UNMEASURED, bare_environment
from tests.services import ServiceProcess, free_port, get_status, until

CLIENTS = 6
MODELS = ("gpt-4o", "claude-sonnet-4-5")
WORDS = 8
# of a call: 4 tokens of input, 4 that were cached, 8 of output
AMOUNTS = {"gpt-4o": Decimal("0.000095"), "claude-sonnet-4-5": Decimal("0.0001332")}


class Load:
    """Clients that call the application, and hang up at times."""

    def __init__(self, port: int) -> None:
        self.begun: set[str] = set()
        self.acknowledged: dict[str, str] = {}
        self._url = f"http://127.0.0.1:{port}/chat"
        self._chance = random.Random(port)

    async def run(self, calls: int) -> None:
        """Call until so many calls were begun, in all."""
        async with aiohttp.ClientSession(headers={"X-Customer": "acme"}) as http, asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._call(http, calls))

    def has_begun(self, calls: int) -> bool:
        """Whether so many calls were begun, in all."""
        return len(self.begun) >= calls

    async def _call(self, http: aiohttp.ClientSession, calls: int) -> None:
        while not self.has_begun(calls):
            model, hangs_up = self._chance.choice(MODELS), self._chance.random() < 0.3
            body = {"model": model, "prompt": " ".join(["word"] * WORDS)}
            with suppress(aiohttp.ClientError, ConnectionError):  # a worker was killed
                async with http.post(self._url, json=body) as response:
                    call = response.headers["X-Call-Id"]
                    self.begun.add(call)
                    if hangs_up:
                        await response.content.read(5)
                        response.close()
                    elif (await response.text()).endswith(f"\n{call}\n"):
                        self.acknowledged[call] = model


@contextmanager
def application(port: int, workers: int, url: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve the example for the block; at the end all its processes are killed."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "--log-level", "warning"]
    command += ["--workers", str(workers), "--port", str(port), "fastapi_llm:app"]
    environment = {"BILLING_BASE_URL": url, "SPOOL_DIR": str(folder / "spool"), "PYTHONPATH": str(ROOT)}
    with (folder / "application.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            env=bare_environment() | UNMEASURED | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    """The processes that a process started, and that serve."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


async def stored(url: str) -> list[UsageRecord]:
    async with BillingSystemClient(base_url=url) as client:
        return [record async for record in client.usage(customer_id="acme", page_size=1_000)]


def amounts(records: list[UsageRecord]) -> dict[str, Decimal]:
    """What each call costs, by its id."""
    sums: dict[str, Decimal] = {}
    for record in records:
        call = (record.event_id or "").partition("/")[0]
        sums[call] = sums.get(call, Decimal(0)) + record.amount
    return sums


async def billed(url: str, calls: set[str]) -> None:
    """Wait until the service has these calls."""
    end = time.monotonic() + 60
    missing = calls
    while missing and time.monotonic() < end:
        with suppress(BillingError):
            missing = calls - amounts(await stored(url)).keys()
        await asyncio.sleep(0.1)
    assert not missing, f"{len(missing)} of {len(calls)} calls are not billed"


@pytest.mark.slow
async def test_what_is_acknowledged_is_billed_to_the_last_token(database_url: str, tmp_path: Path) -> None:
    port, service_port = free_port(), free_port()
    url = f"http://127.0.0.1:{service_port}"
    environment = {"DATABASE_URL": database_url}
    load = Load(port)

    def serve() -> ServiceProcess:
        return ServiceProcess(tmp_path / "service", "serve", "--port", str(service_port), environment=environment)

    with serve() as service, application(port, 3, url, tmp_path) as workers:
        service.await_ready(service_port)
        async with BillingSystemClient(base_url=url) as client:
            await client.create_customer(name="Acme", customer_id="acme")
        await until(lambda: get_status("127.0.0.1", port, "/docs") == 200)
        await load.run(30)
        await billed(url, load.begun)  # also those that hung up: nothing was killed yet

        loading = asyncio.create_task(load.run(180))
        for calls in (60, 90):
            await until(load.has_begun, calls)
            os.kill(children(workers.pid)[0], signal.SIGKILL)
        await until(load.has_begun, 120)
        service.kill()
        with serve() as again:
            again.await_ready(service_port)
            await loading
            os.killpg(workers.pid, signal.SIGKILL)
            with application(port, 1, url, tmp_path):  # fewer workers than before
                await billed(url, set(load.acknowledged))
            records = await stored(url)

    assert len(load.acknowledged) > 50
    costs = amounts(records)
    assert {call: costs[call] for call in load.acknowledged} == {
        call: AMOUNTS[model] for call, model in load.acknowledged.items()
    }
    assert len({record.event_id for record in records}) == len(records) == 3 * len(costs)
    print(f"{len(load.begun)} calls begun, {len(load.acknowledged)} acknowledged, {len(costs)} billed")
