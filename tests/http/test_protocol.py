"""The HTTP protocol: what is written to the connection, and when."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator

import asyncpg
import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from billing_service.http.connections.exchange import CLOSE, Exchange
from billing_service.http.connections.messages import CONTINUE, JoinedWrites
from billing_service.http.connections.protocol import BoundedHttpProtocol
from billing_service.settings import Settings
from tests.calls import exchange, json_request, read_answer, request_head, usage
from tests.services import Service, running_service


class Recorded(asyncio.Transport):
    """A transport that keeps what is written, a write at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        assert isinstance(list_of_data, tuple)
        self.writes.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


def test_a_head_and_what_follows_it_are_one_write() -> None:
    transport = Recorded()
    joined = JoinedWrites(transport)
    for data in (HEAD, b"one,", b"two", HEAD, b"HTTP/1.1 ", HEAD):
        joined.write(data)
    assert transport.writes == [HEAD + b"one,", b"two", HEAD + b"HTTP/1.1 "]
    joined.flush()
    joined.flush()
    assert transport.writes[3:] == [HEAD]


def test_a_head_that_nothing_follows_goes_out_before_the_connection_is_closed() -> None:
    transport = Recorded()
    joined = JoinedWrites(transport)
    joined.write(HEAD)
    joined.close()
    assert (transport.writes, transport.closed) == ([HEAD], True)


def whole_answer(method: str, *headers: tuple[bytes, bytes]) -> tuple[Exchange, Recorded, bool]:
    transport = Recorded()
    exchange = Exchange(
        {"method": method},
        transport,
        FlowControl(transport),
        [(b"date", b"now")],
        lambda: None,
        expect_100_continue=False,
        keep_alive=True,
    )
    return exchange, transport, exchange.answer(200, [(b"content-length", b"4"), *headers], b"body")


@pytest.mark.parametrize(("method", "body"), [("GET", b"body"), ("HEAD", b"")])
def test_a_whole_answer_is_one_write_and_sent_once(method: str, body: bytes) -> None:
    exchange, transport, is_sent = whole_answer(method)
    assert is_sent
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 4\r\n\r\n" + body]
    assert not exchange.answer(200, [], b"again")
    assert not transport.closed


def test_a_whole_answer_may_close_its_connection() -> None:
    _, transport, _ = whole_answer("GET", CLOSE)
    assert transport.closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
def test_a_header_with_a_line_end_is_never_sent(value: bytes) -> None:
    with pytest.raises(RuntimeError, match="line end"):
        whole_answer("GET", (b"location", value))


def test_an_interim_answer_does_not_wait() -> None:
    transport = Recorded()
    JoinedWrites(transport).write(CONTINUE)
    assert transport.writes == [CONTINUE]


def test_a_caller_is_told_to_go_on_before_it_sends_its_body(shared_service: Service) -> None:
    body = json.dumps(usage(customerId="nobody")).encode()
    whole = json_request("/usage", body, "Expect: 100-continue")
    with socket.create_connection((shared_service.host, shared_service.port), timeout=30) as connection:
        connection.sendall(whole[: -len(body)])
        assert connection.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
        connection.sendall(body)
        read_answer(connection).problem("customer_not_found")


def test_answers_without_a_body_are_sent_at_once(shared_service: Service) -> None:
    with socket.create_connection((shared_service.host, shared_service.port), timeout=30) as connection:
        for _ in range(2):
            connection.sendall(request_head("HEAD", "/healthz"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(65536)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_sent_in_one_go_are_answered_in_order(shared_service: Service) -> None:
    requests = request_head("GET", "/healthz") + request_head("GET", "/nowhere") + request_head("GET", "/readyz")
    with socket.create_connection((shared_service.host, shared_service.port), timeout=30) as connection:
        connection.sendall(requests)
        received = b""
        while b"ready" not in received:
            received += connection.recv(65536)
    assert received.index(b'"ok"') < received.index(b'"not_found"') < received.index(b'"ready"')
    exchange(shared_service, request_head("GET", "/healthz")).require(200)


BAD_CHUNK = b"ZZ\r\n"


@pytest.mark.parametrize(
    "next_",
    [
        b"\x00nonsense\r\n\r\n",
        request_head("GET", "/healthz", f"X-Long: {'x' * 70_000}"),
        request_head("POST", "/customers", "Content-Type: application/json", "Transfer-Encoding: chunked") + BAD_CHUNK,
    ],
    ids=["no head", "a long head", "a bad body"],
)
def test_what_is_refused_is_not_the_answer_to_the_request_before_it(service: Service, next_: bytes) -> None:
    exchange(service, json_request("/customers", b'{"id": "acme", "name": "Acme"}')).require(201)
    records = [usage(eventId=f"{n}") for n in range(1_000)]  # while they are recorded what follows has come
    with connect(service) as connection:
        connection.sendall(json_request("/usage/batch", json.dumps({"records": records}).encode()) + next_)
        assert len(read_answer(connection).require(200)["results"]) == 1_000
        assert is_closed(connection)


def test_nothing_is_said_of_the_rest_of_a_request_that_was_answered(shared_service: Service) -> None:
    with connect(shared_service) as connection:
        connection.sendall(request_head("GET", "/healthz", "Transfer-Encoding: chunked") + b"1\r\nx\r\n")
        read_answer(connection).require(200)
        connection.sendall(BAD_CHUNK)
        assert is_closed(connection)


def test_what_came_before_a_refused_request_is_all_answered(shared_service: Service) -> None:
    sound = [request_head("GET", path) for path in ("/healthz", "/readyz", "/nowhere")]
    chunked = request_head("POST", "/customers", "Content-Type: application/json", "Transfer-Encoding: chunked")
    with connect(shared_service) as connection:
        connection.sendall(b"".join([*sound, chunked, BAD_CHUNK]))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"200", b"404"]


class Impatient(BoundedHttpProtocol):
    receive_seconds = 1.0


@pytest.fixture(scope="module")
def impatient_service(shared_service: Service) -> Iterator[Service]:
    """A service that gives a request a second to arrive."""
    with running_service(shared_service.settings, protocol=Impatient) as service:
        yield service


def connect(service: Service) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=30)


def trickle(connection: socket.socket, data: bytes) -> None:
    for position in range(len(data)):
        connection.sendall(data[position : position + 1])
        time.sleep(0.05)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, without another word."""
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [1, 30, -10, -1])
def test_a_request_that_does_not_arrive_is_cut_off(impatient_service: Service, sent: int) -> None:
    with connect(impatient_service) as connection:
        connection.sendall(json_request("/customers", b'{"name": "Acme"}')[:sent])
        answer = read_answer(connection)
        answer.problem("request_timeout")
        assert answer.headers["Connection"] == "close"
        assert is_closed(connection)


def test_so_is_one_after_others(impatient_service: Service) -> None:
    with connect(impatient_service) as connection:
        for _ in range(2):
            connection.sendall(request_head("GET", "/healthz"))
            read_answer(connection).require(200)
        connection.sendall(request_head("GET", "/healthz")[:20])
        read_answer(connection).problem("request_timeout")
        assert is_closed(connection)


def test_one_that_comes_drop_by_drop_is_cut_off_too(impatient_service: Service) -> None:
    with connect(impatient_service) as connection, pytest.raises(ConnectionError):  # it is closed meanwhile
        trickle(connection, request_head("GET", "/healthz", "A: b")[:-2] + b"a" * 1_000)


def test_a_large_body_that_comes_steadily_has_the_time_it_takes(impatient_service: Service) -> None:
    body = b'{"name": "Acme"}'.ljust(50_000)
    with connect(impatient_service) as connection:
        data = json_request("/customers", body)
        for start in range(0, len(data), 5_000):
            connection.sendall(data[start : start + 5_000])
            time.sleep(0.25)  # 2.5 seconds in all
        read_answer(connection).require(201)


def test_a_connection_on_which_nothing_comes_is_closed(impatient_service: Service) -> None:
    with connect(impatient_service) as connection:
        assert is_closed(connection)


def test_a_connection_between_two_requests_is_left_alone(impatient_service: Service) -> None:
    with connect(impatient_service) as connection:
        for _ in range(2):
            connection.sendall(request_head("GET", "/healthz"))
            read_answer(connection).require(200)
            time.sleep(1.5)


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(impatient_service: Service) -> None:
    with connect(impatient_service) as connection:
        connection.sendall(request_head("POST", "/nowhere", "Content-Length: 10") + b"12345")
        read_answer(connection).problem("not_found")
        assert is_closed(connection)


async def test_who_sends_ahead_while_the_service_works_is_not_cut_off(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with running_service(Settings(database_url=database_url), protocol=Impatient) as service:
        exchange(service, json_request("/customers", b'{"id": "acme", "name": "Acme"}')).require(201)
        with connect(service) as caller:
            async with connection.transaction():
                await connection.execute("LOCK TABLE usage_records IN EXCLUSIVE MODE")
                caller.sendall(json_request("/usage", json.dumps(usage()).encode()))
                caller.sendall(request_head("GET", "/healthz")[:10])
                await asyncio.sleep(2.5)
            assert (await asyncio.to_thread(read_answer, caller)).status == 201
            caller.sendall(request_head("GET", "/healthz")[10:])
            (await asyncio.to_thread(read_answer, caller)).require(200)
