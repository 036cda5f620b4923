"""What the connection refuses before it is a request. Each refusal is told, logged and counted."""

import asyncio
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from billing_service.http.connections.messages import MAX_HEAD_BYTES, MAX_HEADER_LINES
from billing_service.http.connections.protocol import MAX_PIPELINED, BoundedHttpProtocol
from billing_service.telemetry.logs import RequestLog
from tests.calls import exchange, read_answer, request_head
from tests.http.bare import BareApp, Served, connect, read_answers, serving
from tests.scrapes import scrape
from tests.services import Service, running_service, serve_process


class Impatient(BoundedHttpProtocol):
    receive_seconds = 1.0


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(BareApp()) as served:
        yield served


@pytest.fixture
def impatient() -> Iterator[Served]:
    with serving(BareApp(), Impatient) as served:
        yield served


def padded(size: int, *headers: str) -> bytes:
    """The head of a request of so many bytes."""
    rest = size - len(request_head("GET", "/", *headers, "X: "))
    return request_head("GET", "/", *headers, f"X: {'x' * rest}")


def is_closed(connection: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return connection.recv(1000) == b""
    return True


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 1000, 120_000, 240_000])
def test_a_head_is_too_large_however_it_arrives(served: Served, size: int, pieces: int) -> None:
    head = padded(size)
    with connect(served) as connection:
        for start in range(0, size, -(-size // pieces)):
            connection.sendall(head[start : start + -(-size // pieces)])
            time.sleep(0.02)
        read_answer(connection).problem("header_too_large")
    assert served.app.heads == []


def test_a_long_address_counts_too(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(request_head("GET", f"/{'x' * 40_000}", f"X: {'x' * 40_000}"))
        read_answer(connection).problem("header_too_large")


def test_a_head_within_the_bound_is_read(served: Served) -> None:
    with connect(served) as connection:
        for _ in range(3):
            connection.sendall(padded(MAX_HEAD_BYTES))
            read_answer(connection).require(200)


def test_one_behind_a_large_body_is_not_taken_for_larger_than_it_is(served: Served) -> None:
    body = b"x" * 200_000
    behind = request_head("GET", "/behind", f"X: {'x' * 50_000}")
    with connect(served) as connection:
        connection.sendall(request_head("POST", "/", f"Content-Length: {len(body)}") + body + behind[:20_000])
        time.sleep(0.05)
        connection.sendall(behind[20_000:])
        assert [answer.require(200)["path"] for answer in read_answers(connection, 2)] == ["/", "/behind"]


@pytest.mark.parametrize("lines", [MAX_HEADER_LINES - 1, MAX_HEADER_LINES + 2])
@pytest.mark.parametrize("complete", [True, False])
def test_header_lines_are_counted(impatient: Served, lines: int, complete: bool) -> None:
    head = request_head("GET", "/", *[f"x{n}: y" for n in range(lines - 1)])
    with connect(impatient) as connection:
        connection.sendall(head if complete else head[:-2])
        answer = read_answer(connection)
    if lines < MAX_HEADER_LINES:
        assert answer.status == (200 if complete else 408)
    else:
        answer.problem("header_too_large")


COUNT = "billing_http_request_duration_seconds_count"
CHUNKED = request_head("POST", "/", "X-Request-Id: mine", "Transfer-Encoding: chunked")


def test_trailers_are_no_headers(served: Served) -> None:
    trailers = b"Authorization: Bearer x\r\nX-Request-Id: other\r\nX-Forwarded-For: 1.2.3.4\r\nHost: other\r\n\r\n"
    with connect(served) as connection:
        for framed in (b"2\r\nab\r\n0\r\n" + trailers, b"0\r\n" + trailers):
            connection.sendall(CHUNKED + framed)
            seen = read_answer(connection).require(200)
            assert seen["headers"] == [
                ["host", "localhost"],
                ["x-request-id", "mine"],
                ["transfer-encoding", "chunked"],
            ]


@pytest.mark.parametrize("trailer", [b"T: %b\r\n" % (b"t" * 1000), b"t" * 1000], ids=["many", "a long one"])
def test_trailers_without_end_are_cut_off(served: Served, trailer: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(CHUNKED + b"2\r\nab\r\n0\r\n")
        time.sleep(0.05)
        with suppress(ConnectionError):
            for _ in range(50_000):
                connection.sendall(trailer)
            pytest.fail("fifty megabytes of trailers were read")
    (refusal,) = served.app.refusals
    assert refusal[:4] == (431, "header_too_large", "mine", "POST")


def test_head_and_trailers_have_one_bound(served: Served) -> None:
    head = request_head("POST", "/", "Transfer-Encoding: chunked", f"X: {'x' * 40_000}")
    trailer = b"T: %b\r\n\r\n" % (b"t" * 40_000)
    with connect(served) as connection:
        connection.sendall(head + b"2\r\nab\r\n0\r\n" + trailer)
        read_answer(connection).problem("header_too_large")


def test_chunks_of_any_size_are_no_trailers(served: Served) -> None:
    body = b"x" * 300_000
    framed = b"".join(b"%x\r\n%b\r\n" % (size, body[:size]) for size in (1, 100_000, 2, 200_000, 0))
    with connect(served) as connection:
        for start in range(0, len(framed), 70_001):
            connection.sendall((CHUNKED if start == 0 else b"") + framed[start : start + 70_001])
        assert len(read_answer(connection).require(200)["body"]) == 300_003
        connection.sendall(CHUNKED + b"186a0\r\n")  # the head of a chunk that waits for its data
        time.sleep(0.05)
        connection.sendall(body[:100_000] + b"\r\n1\r\n")
        time.sleep(0.05)
        connection.sendall(b"x\r\n0\r\n\r\n")
        assert len(read_answer(connection).require(200)["body"]) == 100_001


@pytest.mark.parametrize(
    "codings",
    [
        ("gzip, chunked",),
        ("identity", "chunked"),
        ("chunked", "chunked"),
        ("identity",),
        ("chunked, identity",),
        ("chunked;q=1",),
        ("xchunked",),
        ("",),
    ],
    ids=str,
)
def test_a_body_whose_end_others_may_see_elsewhere_is_refused(served: Served, codings: tuple[str, ...]) -> None:
    lines = [f"Transfer-Encoding: {coding}" for coding in codings]
    with connect(served) as connection:
        connection.sendall(request_head("POST", "/", *lines) + b"0\r\n\r\n" + request_head("GET", "/smuggled"))
        read_answer(connection).problem("validation_error")
        assert is_closed(connection)
    assert served.app.heads == []


def test_the_transfer_coding_may_be_in_capitals(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(request_head("POST", "/", "TRANSFER-ENCODING: Chunked") + b"1\r\nx\r\n0\r\n\r\n")
        assert read_answer(connection).require(200)["body"] == "x"


TARGETS = {
    "CONNECT host:443": None,
    "GET http:///x": None,
    "GET http://user:password@host/x": None,
    "GET http://host:99999/x": None,
    "GET ftp://host/x": None,
    "GET http://host": ("/", "host"),
    "GET HTTP://host?a=b": ("/", "host"),
    "GET https://host:81/x?a=b": ("/x", "host:81"),
    "GET http://[::1]:80/x": ("/x", "[::1]:80"),
    "OPTIONS *": ("*", "localhost"),
    "GET //host/x": ("//host/x", "localhost"),
}


@pytest.mark.parametrize("line", TARGETS)
def test_an_address_that_is_not_served_is_a_bad_request(served: Served, line: str) -> None:
    expected, (method, target) = TARGETS[line], line.split()
    with connect(served) as connection:
        connection.sendall(request_head(method, target))
        answer = read_answer(connection)
        if expected is None:
            answer.problem("validation_error")
            assert is_closed(connection)
            assert served.app.refusals[0].method == method
        else:
            seen = answer.require(200)
            assert (seen["path"], dict(seen["headers"])["host"]) == expected


REFUSED = {
    "no HTTP": (b"not HTTP at all\r\n\r\n", 400, None),
    "a bad line behind the name": (b"GET / HTTP/1.1\r\nX-Request-Id: mine\r\nA: b\r\n\x00: b\r\n\r\n", 400, None),
    "a proxy's request": (request_head("CONNECT", "host:443"), 400, "CONNECT"),
    "a bad chunk": (CHUNKED + b"ZZ\r\n", 400, "POST"),
    "a large head": (padded(100_000, "X-Request-Id: mine"), 431, "GET"),
    "half a head": (CHUNKED[:-2], 408, None),
    "half a body": (CHUNKED + b"10\r\nab", 408, "POST"),
}


@pytest.mark.parametrize(("sent", "status", "method"), REFUSED.values(), ids=REFUSED)
def test_each_refusal_has_a_name_a_log_line_and_a_metric(
    impatient: Served, sent: bytes, status: int, method: str | None
) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        answer = read_answer(connection)
        assert is_closed(connection)
    assert answer.status == status
    name = answer.headers["X-Request-Id"]
    assert name == "mine" if b"mine\r\n" in sent else re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", name)
    (refusal,) = impatient.app.refusals
    assert refusal[:4] == (status, answer.body["code"], name, method)
    assert (refusal.seconds > 0.9) == (status == 408)


@pytest.fixture(scope="module")
def logged_service(shared_service: Service) -> Iterator[tuple[Service, io.BytesIO]]:
    """A service that gives a request a second to arrive, and its request log."""
    stream = io.BytesIO()
    log = RequestLog(stream, msgspec.json.Encoder().encode_lines, "info")
    with running_service(shared_service.settings, log, protocol=Impatient) as service:
        yield service, stream


USAGE = request_head("POST", "/usage", "Content-Type: application/json", "Transfer-Encoding: chunked")
CUT_OFF = {
    "by a time limit": (USAGE + b"1\r\n{", 408, "request_timeout"),
    "by what is no chunk": (USAGE + b"1\r\n{\r\nZZ\r\n", 400, "validation_error"),
    "by its caller": (USAGE + b"1\r\n{", 400, "validation_error"),
    "behind another request": (request_head("GET", "/healthz") + USAGE + b"1\r\n{", 408, "request_timeout"),
    "after its answer": (USAGE.replace(b"/usage", b"/nowhere") + b"1\r\n{", 404, "not_found"),
}


@pytest.mark.parametrize("case", CUT_OFF)
def test_a_body_that_is_cut_off_has_one_line_in_the_log(logged_service: tuple[Service, io.BytesIO], case: str) -> None:
    service, stream = logged_service
    sent, status, code = CUT_OFF[case]
    start = len(stream.getvalue())
    received = b""
    with connect(service) as connection:
        connection.sendall(sent)
        if case == "by its caller":
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    exchange(service, request_head("GET", "/end", "X-Request-Id: end"))
    lines: list[dict[str, Any]] = []
    while not lines or lines[-1]["http_request_id"] != "end":
        time.sleep(0.01)
        lines = [json.loads(line) for line in stream.getvalue()[start:].splitlines()]
    (line,) = lines[:-1]
    assert (line["status"], line["code"]) == (status, code)
    assert line["route"] == ("other" if code == "not_found" else "/usage")
    assert case == "by its caller" or line["http_request_id"].encode() in received


async def test_the_service_logs_and_counts_them(tmp_path: Path, database_url: str) -> None:
    with serve_process(tmp_path, database_url, environment={"BILLING_LOG_FORMAT": "json"}) as served:
        name = exchange(served, b"not HTTP at all\r\n\r\n").headers["X-Request-Id"]
        async with aiohttp.ClientSession(served.url) as http, asyncio.timeout(30):
            while not (await scrape(http)).value(COUNT, method="other", route="other", status="400"):  # noqa: ASYNC110 - no event tells of another process
                await asyncio.sleep(0.02)
        served.service.terminate()
        lines = [json.loads(line) for line in served.service.output.splitlines()]
    (line,) = [line for line in lines if line.get("http_request_id") == name]
    assert (line["status"], line["code"]) == (400, "validation_error")


def test_an_answer_is_read_though_the_rest_of_the_request_was_not(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(padded(100_000))
        for _ in range(100):
            connection.sendall(b"x" * 5_000)  # a connection closed on unread data would be reset
        time.sleep(0.1)
        read_answer(connection).problem("header_too_large")
        assert connection.recv(1000) == b""


def test_requests_without_end_in_one_go_are_answered_as_far_as_they_may_wait(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(request_head("GET", "/slow") + request_head("GET", "/x") * 1000)
        answers = read_answers(connection, 1 + MAX_PIPELINED)
        assert [answer.status for answer in answers] == [200] * len(answers)
        assert answers[-1].headers["Connection"] == "close"
        assert is_closed(connection)
    assert len(served.app.heads) == 1 + MAX_PIPELINED


@pytest.mark.parametrize("upgrade", [(), ("Connection: Upgrade", "Upgrade: h2c")])
@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("HTTP/2.0", "http_version_not_supported"),
        ("HTTP/3.0", "http_version_not_supported"),
        ("HTTP/0.9", "http_version_not_supported"),
        ("HTTP/1.2", "http_version_not_supported"),
        ("HTTP/2", "validation_error"),
        ("HTTP/x", "validation_error"),
    ],
)
def test_other_versions_of_http_are_refused(served: Served, version: str, code: str, upgrade: tuple[str, ...]) -> None:
    """RFC 9110, 15.6.6: HTTP/2 begins with a preface of its own, and is never the version of a request line."""
    with connect(served) as connection:
        connection.sendall(request_head("GET", "/", *upgrade).replace(b"HTTP/1.1", version.encode()))
        read_answer(connection).problem(code)
        assert is_closed(connection)
    assert served.app.heads == []
    assert [refusal.code for refusal in served.app.refusals] == [code]
