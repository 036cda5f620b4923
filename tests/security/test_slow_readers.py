"""Answers that nobody reads: each has a deadline, and all together have a bound."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from billing_service.http.connections.protocol import BoundedHttpProtocol
from tests.calls import request_head
from tests.http.bare import MEGABYTE, BareApp, Bounds, Served, connect, read_answers, serving

LARGE = 16 * MEGABYTE  # more than the system takes for a receiver that does not read


class Impatient(BoundedHttpProtocol):
    send_seconds = 1.0


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(BareApp(Bounds(max_sending_bytes=40 * MEGABYTE)), Impatient) as served:
        yield served


@pytest.fixture
def patient() -> Iterator[Served]:
    with serving(BareApp(Bounds(max_sending_bytes=40 * MEGABYTE))) as served:
        yield served


def ask(served: Served, size: int = LARGE) -> socket.socket:
    """Ask for an answer of so many bytes, and wait until it comes."""
    connection = connect(served)
    connection.sendall(request_head("GET", f"/bytes?n={size}"))
    connection.recv(1, socket.MSG_PEEK)
    return connection


def read_all(connection: socket.socket, enough: int = LARGE) -> int:
    """How many bytes come before the connection is closed, or before there are enough."""
    size = 0
    with connection, contextlib.suppress(ConnectionResetError):
        while size < enough and (data := connection.recv(MEGABYTE)):
            size += len(data)
    return size


def test_an_answer_that_is_not_read_is_given_up(served: Served) -> None:
    connection = ask(served)
    time.sleep(3)
    assert read_all(connection) < LARGE


def test_so_is_one_of_a_connection_that_is_to_be_closed(served: Served) -> None:
    connection = connect(served)
    connection.sendall(request_head("GET", f"/bytes?n={LARGE}", "Connection: close"))
    time.sleep(3)
    assert read_all(connection) < LARGE


def test_whoever_reads_a_little_now_and_then_is_no_better(served: Served) -> None:
    connection, size = ask(served), 0
    for _ in range(8):
        time.sleep(0.5)
        size += len(connection.recv(1_000))
    assert size + read_all(connection) < LARGE


def test_a_slow_reader_that_goes_on_gets_it_all(served: Served) -> None:
    size, started = 0, time.monotonic()
    with ask(served) as connection:
        while size < LARGE:
            size += len(connection.recv(128 * 1024))
            time.sleep(0.03)
    assert time.monotonic() - started > 2


def test_the_next_request_waits_until_the_answer_is_read(patient: Served) -> None:
    with ask(patient) as connection:
        connection.sendall(request_head("GET", "/next"))
        time.sleep(0.5)
        assert patient.app.heads == [("GET", "/bytes")]
        size = 0
        while size < LARGE:
            size += len(connection.recv(LARGE - size))
        while connection.recv(1, socket.MSG_PEEK) != b"H":  # the rest of the answer: its head's length
            connection.recv(1)
        assert read_answers(connection, 1)[0].require(200)["path"] == "/next"


def test_answers_that_wait_have_a_bound_together(patient: Served) -> None:
    stalled = []
    for _ in range(8):
        stalled.append(ask(patient))
        time.sleep(0.05)
    assert read_all(ask(patient)) >= LARGE  # a newcomer that reads is served
    whole = [read_all(connection) >= LARGE for connection in stalled]
    assert sum(whole) <= 3
    assert not any(whole[:5])  # those that kept it for longest went first


def test_one_answer_above_the_bound_is_sent(patient: Served) -> None:
    assert read_all(ask(patient, 100 * MEGABYTE), 100 * MEGABYTE) >= 100 * MEGABYTE
