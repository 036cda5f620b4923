"""Malformed requests that no client library sends: bad heads, body lengths and paths."""

import io
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from billing_service.http.requests import DISCARD_SECONDS
from billing_service.settings import Settings
from tests.calls import Answer, exchange, json_request, read_answer, request_head, usage
from tests.services import ServeProcess, Service, get_status, running_service, serve_process

LIMIT = 4096
CHUNKED = "Transfer-Encoding: chunked"
JSON_TYPE = "Content-Type: application/json"
CUSTOMER = b'{"name":"Acme"}'


@pytest.fixture(autouse=True)
def the_service_goes_on(shared_service: Service) -> Iterator[None]:
    yield
    assert get_status(shared_service.host, shared_service.port, "/readyz") == 200


@pytest.fixture(scope="module")
def small_service(shared_service: Service) -> Iterator[Service]:
    """A service that takes bodies of 4 KiB at most."""
    with running_service(Settings(database_url=shared_service.settings.database_url, max_body_bytes=LIMIT)) as service:
        yield service


def connect(service: Service | ServeProcess) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=30)


def send_body(service: Service, body: bytes, *headers: str) -> Answer:
    head = request_head("POST", "/customers", f"Content-Length: {len(body)}", *headers)
    return exchange(service, head, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def body_of(size: int) -> bytes:
    return json.dumps({"name": "Acme", "id": "x"}).encode().ljust(size)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_body_up_to_the_limit(small_service: Service, size: int) -> None:
    answer = send_body(small_service, body_of(size), JSON_TYPE)
    assert answer.status in (201, 409)
    head = request_head("POST", "/customers", JSON_TYPE, CHUNKED)
    again = exchange(small_service, head, chunk(body_of(size)[:100]), chunk(body_of(size)[100:]), b"0\r\n\r\n")
    again.problem("customer_exists")


@pytest.mark.parametrize("path", ["/customers", "/usage", "/usage/batch"])
@pytest.mark.parametrize("size", [LIMIT + 1, 10 * LIMIT])
def test_a_body_above_the_limit(small_service: Service, path: str, size: int) -> None:
    started = time.monotonic()
    exchange(small_service, json_request(path, body_of(size))).problem("payload_too_large")
    head = request_head("POST", path, JSON_TYPE, CHUNKED)
    exchange(small_service, head, chunk(body_of(size)), b"0\r\n\r\n").problem("payload_too_large")
    assert time.monotonic() - started < DISCARD_SECONDS  # nothing more is waited for


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("megabytes", [17, 20, 40])
async def test_a_client_that_sends_too_much_gets_to_read_why(
    shared_http: aiohttp.ClientSession, megabytes: int, announced: bool
) -> None:
    body = io.BytesIO(bytes(megabytes << 20))
    data = body if announced else pieces(body)
    async with shared_http.post("/customers", data=data, headers={"Content-Type": "application/json"}) as response:
        answer = Answer(response.status, response.headers, await response.json(content_type=None))
    answer.problem("payload_too_large")


def test_a_caller_who_asks_first_is_not_told_to_send_too_much(small_service: Service) -> None:
    head = request_head("POST", "/usage", JSON_TYPE, "Expect: 100-continue", f"Content-Length: {LIMIT + 1}")
    with socket.create_connection((small_service.host, small_service.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 413"


async def pieces(body: io.BytesIO) -> AsyncIterator[bytes]:
    while piece := body.read(1 << 16):
        yield piece


def test_a_body_without_a_length_may_come_in_chunks(shared_service: Service) -> None:
    head = request_head("POST", "/customers", JSON_TYPE, CHUNKED)
    pieces = [chunk(CUSTOMER[n : n + 1]) for n in range(len(CUSTOMER))]
    assert exchange(shared_service, head, pieces, b"0\r\n\r\n").require(201)["name"] == "Acme"


@pytest.mark.parametrize("sent", [0, 1, 10])
@pytest.mark.parametrize("end", ["close", "half-close"])
def test_a_body_that_ends_too_early(shared_service: Service, customer: str, sent: int, end: str) -> None:
    body = json.dumps(usage(customerId=customer)).encode()
    with connect(shared_service) as connection:
        connection.sendall(json_request("/usage", body)[: sent - len(body)])
        if end == "half-close":
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            assert not re.match(rb"HTTP/1.1 (2|500)", connection.recv(1000))
    listed = exchange(shared_service, request_head("GET", f"/customers/{customer}/usage"))
    assert listed.require(200)["data"] == []


def test_a_chunked_body_that_ends_too_early(shared_service: Service, customer: str) -> None:
    body = json.dumps(usage(customerId=customer)).encode()
    with connect(shared_service) as connection:
        connection.sendall(
            request_head("POST", "/usage", JSON_TYPE, CHUNKED) + chunk(body)
        )  # the last chunk is missing
    listed = exchange(shared_service, request_head("GET", f"/customers/{customer}/usage"))
    assert listed.require(200)["data"] == []


def test_a_slow_sender_holds_up_nobody(shared_service: Service) -> None:
    with connect(shared_service) as slow:
        data = json_request("/customers", CUSTOMER)
        for position in range(len(data)):
            slow.sendall(data[position : position + 1])
            if position % 20 == 0:
                exchange(shared_service, request_head("GET", "/healthz")).require(200)
        read_answer(slow).require(201)


def test_requests_may_follow_each_other_on_one_connection(shared_service: Service) -> None:
    with connect(shared_service) as connection:
        for body, status in ((b"{", 400), (CUSTOMER, 201), (b"[" * 10_000, 400), (CUSTOMER, 201)):
            connection.sendall(json_request("/customers", body))
            assert read_answer(connection).status == status


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /customers/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nA\x00B: c\r\n\r\n",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
        b"POST /usage HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    ],
    ids=lambda data: ascii(data)[:50],
)
def test_what_is_no_http_is_refused_with_a_4xx(shared_service: Service, request_bytes: bytes) -> None:
    assert 400 <= exchange(shared_service, request_bytes).status < 500


MEGABYTE = 1 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_body_costs_little_memory(tmp_path: Path, database_url: str, announced: bool) -> None:
    length = f"Content-Length: {200 * MEGABYTE}" if announced else CHUNKED
    piece = bytes(MEGABYTE) if announced else chunk(bytes(MEGABYTE))
    with serve_process(tmp_path, database_url) as served:
        before = peak_memory(served.service.process.pid)
        with connect(served) as connection, suppress(ConnectionError):  # it may hang up in the middle of such a body
            connection.sendall(request_head("POST", "/usage", JSON_TYPE, length))
            for _ in range(200):
                connection.sendall(piece)
        assert peak_memory(served.service.process.pid) - before < 64 * MEGABYTE
        assert get_status(served.host, served.port, "/readyz") == 200


def peak_memory(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    "sent",
    [b"not HTTP at all\r\n\r\n", b"get / HTTP/1.1\r\n\r\n", "GET /é HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()],
)
def test_what_is_no_http_gets_a_problem_too(shared_service: Service, sent: bytes) -> None:
    exchange(shared_service, sent).problem("validation_error")


def test_a_head_without_end_is_cut_off(shared_service: Service) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection((shared_service.host, shared_service.port), timeout=30) as connection:
        connection.sendall(head)
        with suppress(ConnectionError):
            for number in range(10_000):
                connection.sendall(f"X-{number}: {'x' * 1000}\r\n".encode())
            pytest.fail("ten megabytes of headers were read")
    assert exchange(shared_service, head + b"\r\n").status == 200


def test_a_head_just_too_large_is_told_so(shared_service: Service) -> None:
    parts = [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *[b"X: " + b"x" * 1000 + b"\r\n"] * 66]
    exchange(shared_service, *parts).problem("header_too_large")
