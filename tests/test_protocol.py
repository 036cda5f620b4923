"""HTTP on the wire: what is written when, beside what the other tests ask of every answer."""

import asyncio
import json
import socket

from billing_service.protocol import CONTINUE, JoinedWrites
from tests.calls import exchange, json_request, read_answer, request_head, usage
from tests.services import Service


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


def test_an_interim_answer_does_not_wait() -> None:
    transport = Recorded()
    JoinedWrites(transport).write(CONTINUE)
    assert transport.writes == [CONTINUE]


def test_a_caller_is_told_to_go_on_before_it_sends_its_body(shared_service: Service) -> None:
    body = json.dumps(usage()).encode()
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
