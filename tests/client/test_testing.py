"""The fake service of `billing_client.testing`: how it misbehaves, what it remembers; that it keeps the contract is
tested in `tests/contract/`."""

import asyncio
import socket
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from billing_client import (
    AuthenticationError,
    BillingSystemClient,
    CustomerNotFoundError,
    DuplicateRecordError,
    PayloadTooLargeError,
    RateLimitedError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
)
from billing_client._calls import ApiCall
from billing_client.testing import FakeBillingServer, Fault
from tests.calls import json_request, request_head
from tests.client.answers import USAGE, usage

NOTHING_DONE = [Fault.DROP_BEFORE, Fault.RESET_BEFORE, Fault.RATE_LIMITED, Fault.UNAVAILABLE]
DONE = [Fault.DROP_AFTER_COMMIT, Fault.RESET_AFTER_COMMIT, Fault.TRUNCATE]


@pytest.fixture
def server(billing_server: FakeBillingServer) -> FakeBillingServer:
    """A fake service that knows the customer of `USAGE`."""
    billing_server.add_customer("acme", name="Acme")
    return billing_server


@pytest.fixture
def client(server: FakeBillingServer, billing_client: BillingSystemClient) -> BillingSystemClient:
    return billing_client


async def test_usage_is_recorded_and_can_be_looked_at(server: FakeBillingServer, client: BillingSystemClient) -> None:
    record = await client.record_usage(**USAGE, idempotency_key="a-call")
    assert (record.outcome, record.amount) == ("recorded", Decimal("0.03"))
    (stored,) = server.records
    assert stored == await client.get_usage(customer_id="acme", request_id=record.request_id)
    call = server.calls[0]
    assert (call.method, call.path, call.query, call.idempotency_key) == ("POST", "/usage", "", "a-call")
    assert (call.status, call.fault) == (201, None)
    assert call.json()["eventId"] == USAGE["event_id"]
    voided = await client.void_usage(customer_id="acme", request_id=record.request_id, reason="wrong")
    assert server.records[0].voided_at == voided.voided_at


@pytest.mark.parametrize("fault", NOTHING_DONE + DONE, ids=lambda fault: fault.name)
async def test_a_call_that_met_a_fault_is_recorded_once(
    server: FakeBillingServer, client: BillingSystemClient, fault: Fault
) -> None:
    server.misbehave(fault, times=2)
    record = await client.record_usage(**USAGE)
    assert record.outcome == ("recorded" if fault in NOTHING_DONE else "replayed")
    assert len(server.records) == 1
    statuses = {Fault.RATE_LIMITED: 429, Fault.UNAVAILABLE: 503}
    assert [call.status for call in server.calls] == [statuses.get(fault)] * 2 + [201]
    assert [call.fault for call in server.calls] == [fault, fault, None]
    assert len({call.idempotency_key for call in server.calls}) == 1
    assert len({call.body for call in server.calls}) == 1


@pytest.mark.parametrize("fault", DONE, ids=lambda fault: fault.name)
async def test_a_batch_that_was_done_and_not_answered_is_replayed(
    server: FakeBillingServer, client: BillingSystemClient, fault: Fault
) -> None:
    server.misbehave(fault, on="/usage/batch")
    outcomes = [result.outcome async for result in client.record_usages([usage(1), usage(2), usage(1)])]
    assert outcomes == ["replayed", "replayed", "duplicate"]
    assert [record.event_id for record in server.records] == ["event-1", "event-2"]


async def test_a_fault_that_outlasts_the_client_leaves_the_call_unknown(server: FakeBillingServer) -> None:
    server.misbehave(Fault.DROP_AFTER_COMMIT, times=None)
    async with server.client(max_attempts=2) as client:
        with pytest.raises(TransportError) as caught:
            await client.record_usage(**USAGE)
        assert (caught.value.outcome, caught.value.attempts) == ("unknown", 2)
        assert len(server.records) == 1
        server.behave()
        again = await client.record_usage(**USAGE, idempotency_key=caught.value.idempotency_key)
        assert again.outcome == "replayed"
        with pytest.raises(DuplicateRecordError):
            await client.record_usage(**USAGE)


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.RATE_LIMITED, RateLimitedError), (Fault.UNAVAILABLE, UnavailableError)]
)
async def test_refusals_that_outlast_the_client(
    server: FakeBillingServer, fault: Fault, error: type[Exception]
) -> None:
    server.misbehave(fault, times=None)
    async with server.client(max_attempts=2) as client:
        with pytest.raises(error):
            await client.record_usage(**USAGE)
    assert server.records == []


async def test_a_redirect_is_not_followed(server: FakeBillingServer, client: BillingSystemClient) -> None:
    server.misbehave(Fault.REDIRECT)
    with pytest.raises(UnexpectedResponseError) as caught:
        await client.record_usage(**USAGE)
    assert caught.value.status == 302
    assert ([call.path for call in server.calls], server.records) == (["/usage"], [])


async def test_a_retry_waits_as_long_as_it_is_asked_to(server: FakeBillingServer, client: BillingSystemClient) -> None:
    server.misbehave(Fault.UNAVAILABLE, seconds=0.5)  # Retry-After has whole seconds
    before = time.monotonic()
    await client.record_usage(**USAGE)
    assert time.monotonic() - before >= 1


async def test_a_delayed_call_is_done_at_once_and_answered_late(
    server: FakeBillingServer, client: BillingSystemClient
) -> None:
    server.misbehave(Fault.DELAY, seconds=0.5)
    before = time.monotonic()
    task = asyncio.create_task(client.record_usage(**USAGE))
    while not server.records:  # noqa: ASYNC110 - another thread records, and sets no event of this loop
        await asyncio.sleep(0.001)
    assert server.calls[0].status is None
    assert (await task).outcome == "recorded"
    assert time.monotonic() - before >= 0.5


async def test_the_answer_to_a_read_breaks_off_too(server: FakeBillingServer, client: BillingSystemClient) -> None:
    server.misbehave(Fault.TRUNCATE, on="GET /usage/export")
    with pytest.raises(TransportError):  # not an end that could be taken for that of an empty ledger
        _ = [record async for record in client.export_usage()]
    assert [record async for record in client.export_usage()] == []


def ask(server: FakeBillingServer, request: bytes = request_head("GET", "/customers/acme")) -> bytes:
    """All that a server answers on a connection of its own, to its end."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER_COMMIT], ids=lambda fault: fault.name)
def test_a_reset_is_one_on_the_wire(server: FakeBillingServer, fault: Fault) -> None:
    server.misbehave(fault)
    with pytest.raises(ConnectionResetError):
        ask(server)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER_COMMIT], ids=lambda fault: fault.name)
def test_a_dropped_connection_ends_without_a_byte(server: FakeBillingServer, fault: Fault) -> None:
    server.misbehave(fault)
    assert ask(server) == b""


def test_a_truncated_answer_announces_more_than_comes(server: FakeBillingServer) -> None:
    server.misbehave(Fault.TRUNCATE)
    head, _, body = ask(server).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    (length,) = [int(line.split()[1]) for line in head.splitlines() if line.startswith(b"Content-Length:")]
    assert 0 < len(body) < length


def answered(server: FakeBillingServer, *requests: tuple[str, str]) -> list[int | None]:
    """Send requests one by one; the statuses of their answers, None where none came."""
    seen, close = len(server.calls), "Connection: close"
    for method, path in requests:
        is_post = method == "POST"
        ask(server, json_request(path, b'{"name":"Acme"}', close) if is_post else request_head(method, path, close))
    return [call.status for call in server.calls[seen:]]


GET, LIST = ("GET", "/customers/acme"), ("GET", "/customers")


@pytest.mark.parametrize(
    ("command", "requests", "statuses"),
    [
        ({"times": 2}, [GET] * 4, [503, 503, 200, 200]),
        ({"times": 2, "every": 3}, [GET] * 9, [200, 200, 503, 200, 200, 503, 200, 200, 200]),
        ({"times": None, "every": 2}, [GET] * 6, [200, 503] * 3),
        ({"times": 0}, [GET], [200]),
        ({"on": "/customers"}, [GET, LIST, LIST], [200, 503, 200]),
        ({"on": "/customers/*", "times": None}, [LIST, GET, ("GET", "/customers/acme/usage")], [200, 503, 503]),
        ({"on": "GET /customers", "times": None}, [("POST", "/customers"), LIST], [201, 503]),
        ({"on": "POST *", "times": None}, [LIST, ("POST", "/customers")], [200, 503]),
        ({"on": "/customers", "every": 2}, [LIST, GET, GET, LIST], [200, 200, 200, 503]),  # others do not count
    ],
    ids=str,
)
def test_faults_meet_the_calls_they_are_told_to(
    server: FakeBillingServer, command: dict[str, Any], requests: list[tuple[str, str]], statuses: list[int | None]
) -> None:
    server.misbehave(Fault.UNAVAILABLE, **command)
    assert answered(server, *requests) == statuses


def test_faults_come_in_the_order_in_which_they_were_commanded(server: FakeBillingServer) -> None:
    server.misbehave(Fault.UNAVAILABLE)
    server.misbehave(Fault.DROP_BEFORE)
    server.misbehave(Fault.RATE_LIMITED)
    assert answered(server, *[GET] * 4) == [503, None, 429, 200]
    server.misbehave(Fault.UNAVAILABLE, times=None)
    assert answered(server, GET) == [503]
    server.behave()
    assert answered(server, GET) == [200]


@pytest.mark.parametrize(
    ("fault", "command"),
    [
        (Fault.DELAY, {}),
        (Fault.UNAVAILABLE, {"every": 0}),
        (Fault.UNAVAILABLE, {"times": -1}),
        (Fault.UNAVAILABLE, {"seconds": -1}),
    ],
    ids=str,
)
def test_a_command_that_makes_no_sense(server: FakeBillingServer, fault: Fault, command: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(a delay takes seconds|every must be)"):
        server.misbehave(fault, **command)


def test_customers_can_be_added_and_looked_at(server: FakeBillingServer) -> None:
    assert server.customer("acme").name == "Acme"
    with pytest.raises(ValueError, match="taken"):
        server.add_customer("acme")
    with pytest.raises(KeyError, match="nobody"):
        server.customer("nobody")


async def test_customers_of_calls_can_be_looked_at(server: FakeBillingServer, client: BillingSystemClient) -> None:
    created = await client.create_customer(name="Other")
    assert server.customer(created.id) == created
    with pytest.raises(CustomerNotFoundError):
        await client.record_usage(**{**USAGE, "customer_id": "nobody"})


async def test_api_keys_where_it_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_API_KEY", "a-real-one")
    with FakeBillingServer(api_keys=["good", "other"]) as server:
        for api_key in ("good", "other"):
            async with server.client(api_key=api_key) as client:
                assert [customer async for customer in client.customers()] == []
        async with server.client() as client:  # with its first key, and not the one of the environment
            assert [customer async for customer in client.customers()] == []
        assert b"401 Unauthorized" in ask(server, request_head("GET", "/customers", "Connection: close"))
        async with BillingSystemClient(base_url=server.url) as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.create_customer(name="Acme")
    assert (caught.value.status, caught.value.code) == (401, "unauthenticated")


async def test_the_currency_is_the_one_it_was_told() -> None:
    with FakeBillingServer(currency="KWD") as server:
        server.add_customer("acme")
        async with server.client() as client:
            assert (await client.summary(customer_id="acme")).currency == "KWD"


def test_a_format_that_only_the_service_has_is_refused(server: FakeBillingServer) -> None:
    answer = ask(server, request_head("GET", "/usage/export?format=csv", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 406 ")
    assert b'"code":"not_acceptable"' in answer


async def test_a_body_larger_than_a_service_takes(server: FakeBillingServer, client: BillingSystemClient) -> None:
    large = "x" * 1_000
    with pytest.raises(PayloadTooLargeError):
        await send_raw(client, large.encode() * 9_000)
    assert server.calls[0].status == 413


async def send_raw(client: BillingSystemClient, body: bytes) -> None:
    """Send a body that no method of the client would."""
    await client._transport.send(ApiCall("POST", "/customers", body))


@pytest.mark.parametrize("leave", [lambda: None, lambda: time.sleep(0.05)], ids=["at once", "soon"])
def test_a_caller_that_goes_away_harms_nothing(
    server: FakeBillingServer, caplog: pytest.LogCaptureFixture, leave: Callable[[], None]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(json_request("/customers", b'{"name":"Acme"}')[:-1])
        leave()
    assert answered(server, GET) == [200]
    assert caplog.text == ""


def test_it_ends_at_once_though_calls_are_under_way(server: FakeBillingServer) -> None:
    with FakeBillingServer() as other, socket.create_connection(("127.0.0.1", int(other.url.rpartition(":")[2]))) as c:
        other.misbehave(Fault.DELAY, seconds=600)
        c.sendall(request_head("GET", "/customers"))
        while not other.calls:
            time.sleep(0.001)
        before = time.monotonic()
    assert time.monotonic() - before < 60


def test_each_server_is_one_of_its_own(server: FakeBillingServer) -> None:
    with FakeBillingServer() as other:
        assert other.url != server.url
        with pytest.raises(KeyError):
            other.customer("acme")
