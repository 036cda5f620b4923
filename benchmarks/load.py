"""The load: the same generator for every system, and nothing but the generator beside the servers.

`wrk` where it is installed, else a loop over raw sockets with the requests built beforehand.
"""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import uvloop

from benchmarks.usages import SERVICES, Workload

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SCRIPT = Path(__file__).with_name("wrk.lua")
BUILT_PER_SECOND = 12_000  # more requests than any of the servers answers


class Load(NamedTuple):
    """What a load met: how many calls were acknowledged and how many were not, and how long calls took.

    `undecided` calls at most were under way when it stopped: those may be stored without having been acknowledged.
    """

    acknowledged: int
    refused: int
    undecided: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


Generator = Callable[[int, int, int, str, int], Load]


def choose_generator() -> tuple[str, Generator]:
    """What will drive all systems, and its name. It takes port, connections, seconds, name of the run, customers."""
    if shutil.which("wrk"):
        version = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
        return " ".join(version.split()[:2]), run_wrk
    return "asyncio over raw sockets", run_sockets


def run_wrk(port: int, connections: int, seconds: int, name: str, customers: int) -> Load:
    """One thread is enough for these rates, and leaves the most of the machine to the servers."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(_SCRIPT)]
    command = ["wrk", *options, f"http://127.0.0.1:{port}/usage", "--", name, str(customers), ",".join(SERVICES)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said = json.loads(output.strip().splitlines()[-1])
    return Load(
        acknowledged=said["answered"] - said["refused"],
        refused=said["refused"] + said["lost"],
        undecided=connections,
        seconds=said["seconds"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
    )


def run_sockets(port: int, connections: int, seconds: int, name: str, customers: int) -> Load:
    """The same load without wrk."""
    requests = [post("/usage", body) for body in Workload(name, customers).bodies(seconds * BUILT_PER_SECOND)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run_sockets(port, connections, seconds, requests))


async def _run_sockets(port: int, connections: int, seconds: int, requests: list[bytes]) -> Load:
    taken: list[float] = []
    statuses: list[int] = []
    started = time.perf_counter()

    async def caller() -> None:
        async with Caller(port) as call:
            while requests and time.perf_counter() - started < seconds:
                sent = time.perf_counter()
                status, _ = await call(requests.pop())
                taken.append(time.perf_counter() - sent)
                statuses.append(status)

    await asyncio.gather(*(caller() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    taken.sort()
    acknowledged = statuses.count(201)
    return Load(
        acknowledged=acknowledged,
        refused=len(statuses) - acknowledged,
        undecided=0,
        seconds=elapsed,
        p50_ms=taken[len(taken) // 2] * 1e3,
        p99_ms=taken[len(taken) * 99 // 100] * 1e3,
    )


def post(path: str, body: bytes, key: str | None = None) -> bytes:
    """The bytes of a request, with an Idempotency-Key if one is given."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head += "" if key is None else f"\r\nIdempotency-Key: {key}"
    return f"{head}\r\n\r\n".encode() + body


def get(path: str) -> bytes:
    """The bytes of a request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class Caller(asyncio.Protocol):
    """One keep-alive connection: a call sends the bytes of a request, and gives the status and body of the answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._received = bytearray()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    async def __call__(self, request: bytes) -> tuple[int, bytes]:
        self._answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        end = received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(received, 0, end)
        if length is None:
            raise RuntimeError("an answer without Content-Length")
        if len(received) >= end + int(length[1]):
            answer = int(received[9:12]), bytes(received[end:])
            received.clear()
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))
