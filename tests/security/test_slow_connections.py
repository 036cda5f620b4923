"""Connections that do nothing, or as little as they can, keep nobody out."""

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from billing_service.commands.serve import MAX_CONNECTIONS
from billing_service.http.connections.protocol import BoundedHttpProtocol
from tests.calls import get, given_customer, json_request, post, read_answer, request_head, usage
from tests.http.bare import MEGABYTE, BareApp, Bounds, Served, connect, serving
from tests.services import ServeProcess, ServiceProcess, free_port, get_status, serve_process

ROOT = Path(__file__).parents[2]
EACH = 200
RECORD = json_request("/usage", json.dumps(usage()).encode())
KINDS = {
    "nothing": b"",
    "part of a head": request_head("GET", "/customers")[:-2],
    "part of a body": RECORD[:-5],
    "a body that was only announced": RECORD[: RECORD.index(b"\r\n\r\n") + 4],
}


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[ServeProcess]:
    with serve_process(tmp_path, database_url, environment={"BILLING_MAX_REQUESTS": "100"}) as served:
        yield served


async def test_hundreds_of_slow_connections_keep_nobody_out(served: ServeProcess) -> None:
    with ExitStack() as stack:
        slow: dict[str, list[socket.socket]] = {kind: [] for kind in KINDS}
        for kind, sent in KINDS.items():
            for _ in range(EACH):
                connection = stack.enter_context(socket.create_connection((served.host, served.port), timeout=30))
                connection.sendall(sent)
                slow[kind].append(connection)
        async with asyncio.timeout(120), aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            for number, connection in enumerate(slow["part of a head"]):
                connection.sendall(b"a: b\r\n")  # what keeps a "slow loris" alive
                (await post(http, "/usage", usage(eventId=f"{number}"))).require(201)
        async with asyncio.timeout(120), aiohttp.ClientSession(served.url) as newcomer:
            (await get(newcomer, "/readyz")).require(200)


def test_the_service_may_hold_as_many_connections_as_the_system_grants(served: ServeProcess) -> None:
    soft, hard = psutil.Process(served.service.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    granted = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == granted
    assert soft >= min(MAX_CONNECTIONS, granted)


class Impatient(BoundedHttpProtocol):
    receive_seconds = 1.0
    whole_request_seconds = 3.0


BODY = MEGABYTE


@pytest.fixture
def bare() -> Iterator[Served]:
    with serving(BareApp(Bounds(BODY, 8 * BODY)), Impatient) as served:
        yield served


@pytest.fixture
def patient() -> Iterator[Served]:
    with serving(BareApp(Bounds(BODY, 8 * BODY))) as served:
        yield served


def announced(size: int) -> bytes:
    return request_head("POST", "/", f"Content-Length: {size}", "X-Request-Id: mine")


def test_a_body_that_stops_is_cut_off_soon(bare: Served) -> None:
    with connect(bare) as connection:
        started = time.monotonic()
        connection.sendall(announced(BODY) + b"x" * (BODY - 1))
        read_answer(connection).problem("request_timeout")
        assert time.monotonic() - started < 2.5  # at the old rate of 8 KiB a second it had bought two minutes


def test_a_body_that_trickles_is_cut_off_at_last() -> None:
    with serving(BareApp(Bounds(128 * 1024)), Impatient) as served, connect(served) as connection:
        started = time.monotonic()
        connection.sendall(announced(128 * 1024))
        connection.settimeout(0.25)
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    connection.recv(1, socket.MSG_PEEK)
                    break
                except TimeoutError:
                    connection.sendall(b"x" * 8 * 1024)  # well above the rate
        read_answer(connection).problem("request_timeout")
        assert 2.5 < time.monotonic() - started < 6


def test_bodies_that_stop_make_room_for_those_that_come(patient: Served) -> None:
    """Sixteen times what may be received at once: each newcomer is taken, and those that stopped first have gone."""
    with ExitStack() as stack:
        stopped = []
        for _ in range(16):
            connection = stack.enter_context(connect(patient))
            connection.sendall(announced(BODY) + b"x" * (BODY - 1))
            stopped.append(connection)
            time.sleep(0.02)
        newcomer = stack.enter_context(connect(patient))
        newcomer.sendall(announced(BODY) + b"x" * BODY)
        assert len(read_answer(newcomer).require(200)["body"]) == BODY
        refused = read_answer(stopped[0])
        refused.problem("unavailable")
        assert refused.headers["Retry-After"] == "1"
        assert refused.headers["X-Request-Id"] == "mine"
        assert 5 <= len(patient.app.refusals) <= 12
        assert {refusal[:4] for refusal in patient.app.refusals} == {(503, "unavailable", "mine", "POST")}
        stopped[-1].sendall(b"x")
        read_answer(stopped[-1]).require(200)


def test_requests_at_work_are_not_given_up_for_those_that_stop(patient: Served) -> None:
    with ExitStack() as stack:
        worker = stack.enter_context(connect(patient))
        worker.sendall(request_head("GET", "/"))
        read_answer(worker).require(200)
        time.sleep(3)  # the age of its connection must not count
        worker.sendall(request_head("GET", "/slow", "Content-Length: 60000") + b"x" * 60_000)
        for _ in range(16):
            connection = stack.enter_context(connect(patient))
            connection.sendall(announced(BODY) + b"x" * (BODY - 1))
            time.sleep(0.02)
        read_answer(worker).require(200)
        assert patient.app.refusals


def test_idle_connections_make_room_for_those_that_come() -> None:
    """Each counts for what it takes, so their number has a bound; the one that was idle for longest goes first."""
    with (
        serving(BareApp(Bounds(max_body_bytes=1024, max_receiving_bytes=2 * MEGABYTE))) as served,
        ExitStack() as stack,
    ):
        idle = [stack.enter_context(connect(served)) for _ in range(1_000)]
        idle[-1].sendall(request_head("GET", "/"))
        read_answer(idle[-1]).require(200)
        assert idle[0].recv(1) == b""
        for connection in idle:
            connection.setblocking(False)
        assert sum(is_open(connection) for connection in idle) < 700


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


HEAD = request_head("GET", "/unread")
CHUNKED = request_head("POST", "/", "Transfer-Encoding: chunked")
LINES = b"".join(b"%d:b\r\n" % number for number in range(10_000, 10_250))
ATTACKS: dict[str, tuple[int, list[bytes]]] = {
    "heads that do not end": (1_500, [HEAD[:-2] + LINES + b"A: " + b"a" * 58_000]),
    "whole large heads": (1_500, [HEAD[:-2] + LINES + b"A: " + b"a" * 58_000 + b"\r\n\r\n"]),
    "heads of many lines": (200, [HEAD[:-2] + b"".join(b"%d:b\r\n" % number for number in range(7_000))]),
    "requests that wait": (40, [request_head("GET", "/slow") + HEAD * 5_000]),
    "a trailer without end": (
        1,
        [request_head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n", *[b"t" * MEGABYTE] * 200],
    ),
    "bodies that stop": (40, [announced(8 * MEGABYTE), *[b"x" * (MEGABYTE - 1)] * 8]),
    "answers that nobody reads": (8, [request_head("GET", f"/bytes?n={62 * MEGABYTE}")]),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize(("connections", "pieces"), ATTACKS.values(), ids=ATTACKS)
def test_no_caller_without_a_key_takes_much_memory(tmp_path: Path, connections: int, pieces: list[bytes]) -> None:
    allow_files()
    port = free_port()
    process = ServiceProcess(tmp_path, str(port), module="tests.http.bare", environment={"PYTHONPATH": str(ROOT)})
    with process as service, ExitStack() as stack:
        service.await_ready(port)
        before = memory(service)
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
                if b"/bytes" in b"".join(pieces):
                    connection.recv(1, socket.MSG_PEEK)
        assert settled_memory(service) - before < 96 * MEGABYTE  # 64 MiB, and what the allocator keeps
        assert get_status("127.0.0.1", port, "/") == 200


def memory(service: ServiceProcess) -> int:
    return psutil.Process(service.process.pid).memory_info().rss


def settled_memory(service: ServiceProcess) -> int:
    """Its memory, once it has worked off what it was sent."""
    sizes = [memory(service)]
    while len(sizes) < 4 or max(sizes[-4:]) - min(sizes[-4:]) > MEGABYTE:
        time.sleep(0.3)
        sizes.append(memory(service))
    return sizes[-1]


def allow_files() -> None:
    """Let this process open as many connections as the system grants."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
