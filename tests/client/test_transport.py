"""One call, against a server that misbehaves: what is sent, what is sent again, what is believed."""

import asyncio
import gzip
import json
import re
import traceback
import tracemalloc
import zlib

import pytest

from billing_client import BillingError, DeadlineExceededError, TransportError, UnexpectedResponseError, __version__
from billing_client._transport import MAX_RESPONSE_BYTES
from tests.client.answers import CUSTOMER, STORED, USAGE, client_of, json_answer, recorded
from tests.client.misbehaving import Connection, Request, Step, answer, disconnect, misbehaving, raw, reset

HEAD = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
BODY = json.dumps(STORED).encode()
BROKEN_OFF = {
    "disconnect": disconnect,
    "reset": reset,
    "nothing but a status line": raw(b"HTTP/1.1 201 Created\r\n"),
    "a body shorter than announced": raw(HEAD + b"Content-Length: 1000\r\n\r\n" + BODY),
    "no byte of the body": raw(HEAD + b"Content-Length: 1000\r\n\r\n"),
    "chunks without an end": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)),
    "a chunk cut short": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + BODY),
    "a chunk without a size": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nsize\r\n" + BODY),
    "a body that is not gzip": raw(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\ngzip"),
    "not HTTP": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a header without end": raw(HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n"),
}


def what_was_sent(requests: list[Request]) -> set[tuple[str, str, str, bytes]]:
    return {(r.method, r.target, r.header("Idempotency-Key"), r.body) for r in requests}


async def test_a_call_is_one_request() -> None:
    async with misbehaving(recorded()) as server, client_of(server, api_key="key-1") as client:
        record = await client.record_usage(**USAGE, idempotency_key="call-1")
    assert (record.outcome, record.request_id) == ("recorded", STORED["requestId"])
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/usage")
    assert request.header("Idempotency-Key") == "call-1"
    assert request.header("Authorization") == "Bearer key-1"
    assert request.header("Content-Type") == "application/json"
    assert "application/json" in request.header("Accept")
    assert request.header("User-Agent") == f"billing-client/{__version__}"
    assert json.loads(request.body) == {
        "customerId": "acme",
        "service": "storage",
        "unitsConsumed": "1.5",
        "pricePerUnit": "0.02",
        "eventId": "event-1",
    }


async def test_without_an_api_key_none_is_sent() -> None:
    async with misbehaving(recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
    assert server.requests[0].all("Authorization") == []


async def test_each_call_has_a_key_of_its_own() -> None:
    async with misbehaving(recorded()) as server, client_of(server) as client:
        for _ in range(20):
            await client.record_usage(**USAGE)
    keys = {request.header("Idempotency-Key") for request in server.requests}
    assert len(keys) == 20
    assert all(re.fullmatch(r"[\x21-\x7e]{16,255}", key) for key in keys)


async def test_the_base_url_may_have_a_path() -> None:
    async with misbehaving(recorded()) as server:
        for base_url in (f"{server.url}/billing/v1", f"{server.url}/billing/v1/"):
            async with client_of(server, base_url=base_url) as client:
                await client.record_usage(**USAGE)
    assert [request.target for request in server.requests] == ["/billing/v1/usage"] * 2


@pytest.mark.parametrize("failing", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
async def test_a_call_whose_answer_breaks_off_is_sent_again_as_it_was(failing: Step) -> None:
    replayed = recorded(Idempotent_Replayed="true")
    async with misbehaving(failing, failing, replayed) as server, client_of(server) as client:
        record = await client.record_usage(**USAGE)
    assert record.outcome == "replayed"
    assert len(server.requests) == 3
    assert len(what_was_sent(server.requests)) == 1


async def test_a_connection_closed_while_idle_costs_one_more_attempt() -> None:
    async with misbehaving(recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
        server.drop_connections()  # the client has had no chance to notice when it sends
        assert (await client.record_usage(**USAGE)).outcome == "recorded"
    assert [request.connection for request in server.requests] == [1, 2]


async def test_a_connection_closed_as_a_request_arrives_costs_one_more_attempt() -> None:
    replayed = recorded(Idempotent_Replayed="true")
    async with misbehaving(recorded(), disconnect, replayed) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
        assert (await client.record_usage(**USAGE)).outcome == "replayed"
    assert [request.connection for request in server.requests] == [1, 1, 2]
    assert len(what_was_sent(server.requests[1:])) == 1


async def test_connections_are_used_again() -> None:
    async with misbehaving(recorded()) as server, client_of(server) as client:
        for _ in range(5):
            await client.record_usage(**USAGE)
    assert server.connections == 1


async def test_a_new_customer_gets_the_same_id_at_each_attempt() -> None:
    async def created(connection: Connection, request: Request) -> None:
        await json_answer(201, {**CUSTOMER, "id": json.loads(request.body)["id"]})(connection, request)

    async with misbehaving(disconnect, created) as server, client_of(server) as client:
        assert (await client.create_customer(name="Acme")).name == "Acme"
    assert len(what_was_sent(server.requests)) == 1
    assert json.loads(server.requests[0].body)["id"].startswith("cus_")


async def test_a_change_and_a_read_are_sent_again_without_a_key() -> None:
    async with misbehaving(reset, disconnect, json_answer(200, CUSTOMER)) as server, client_of(server) as client:
        assert (await client.update_customer(customer_id="acme", name="Acme")).name == "Acme"
        assert (await client.get_customer(customer_id="acme")).name == "Acme"
    assert {(request.method, request.body) for request in server.requests[:3]} == {("PATCH", b'{"name":"Acme"}')}
    assert all(request.all("Idempotency-Key") == [] for request in server.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with (
        misbehaving(recorded()) as elsewhere,
        misbehaving(answer(status, Location=elsewhere.url)) as server,
        client_of(server) as client,
    ):
        with pytest.raises(UnexpectedResponseError) as caught:
            await client.record_usage(**USAGE)
        with pytest.raises(UnexpectedResponseError):
            await client.get_customer(customer_id="acme")
    assert (caught.value.status, caught.value.attempts, caught.value.outcome) == (status, 1, "unknown")
    assert [request.method for request in server.requests] == ["POST", "GET"]
    assert elsewhere.requests == []


async def test_no_cookies_are_kept() -> None:
    cookie = recorded(Set_Cookie="session=1; Path=/")
    async with (
        misbehaving(cookie) as server,
        # by name, since a cookie jar of aiohttp's keeps none for an IP address anyway
        client_of(server, base_url=f"http://localhost:{server.port}") as client,
    ):
        await client.record_usage(**USAGE)
        await client.record_usage(**USAGE)
    assert len(server.requests) == 2
    assert all(request.all("Cookie") == [] for request in server.requests)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"null",
        b"{}",
        b"[" * 1_000_000,
        b'{"x":' * 100_000,
        b"\xff",
        BODY[:-1],
        BODY.replace(b'"0.03"', b'"much"'),
        BODY.replace(b'"0.03"', b"1e99999999999999999999"),
        BODY.replace(b"2026-01-01", b"2026-13-01"),
    ],
    ids=range(11),
)
async def test_an_answer_that_is_no_record_is_an_error_and_not_sent_again(body: bytes) -> None:
    async with misbehaving(answer(201, body)) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError) as caught:
            await client.record_usage(**USAGE, idempotency_key="call-1")
    error = caught.value
    assert (error.status, error.code, error.attempts, error.outcome) == (201, None, 1, "unknown")
    assert error.idempotency_key == "call-1"
    assert error.request_id
    assert len(server.requests) == 1


BOMB = gzip.compress(bytes(300_000_000), 1)
ENCODINGS = {"Content_Encoding": "gzip"}


@pytest.mark.parametrize("status", [201, 500])
async def test_an_answer_has_a_bound_whatever_it_decompresses_to(status: int) -> None:
    async with misbehaving(answer(status, BOMB, **ENCODINGS)) as server, client_of(server) as client:
        tracemalloc.start()
        try:
            with pytest.raises(UnexpectedResponseError, match="the response is longer than") as caught:
                await client.record_usage(**USAGE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (caught.value.status, caught.value.outcome, caught.value.attempts) == (status, "unknown", 1)
    assert peak < 2 * MAX_RESPONSE_BYTES


async def test_others_have_their_turn_while_a_long_answer_is_read() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    body = gzip.compress(BODY + b" " * 50_000_000, 1)
    async with misbehaving(answer(201, body, **ENCODINGS)) as server, client_of(server) as client:
        before = asyncio.create_task(count())
        await client.record_usage(**USAGE)
        before.cancel()
    assert turns > 50


async def test_a_long_answer_does_not_outlast_the_deadline() -> None:
    async def endless(connection: Connection, _: Request) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(head)
        compressor = zlib.compressobj(wbits=31)
        while True:  # a trickle that would be read for hours
            part = compressor.compress(b" ") + compressor.flush(zlib.Z_SYNC_FLUSH)
            await connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            await asyncio.sleep(0.01)

    async with misbehaving(endless) as server, client_of(server, timeout=0.3) as client:
        with pytest.raises(DeadlineExceededError):
            await client.get_customer(customer_id="acme")


async def test_the_api_key_is_never_shown() -> None:
    shown = []
    scripts: list[Step] = [disconnect, raw(b"garbage\r\n\r\n"), answer(302), answer(401, b"x"), answer(201, b"x")]
    for failing in scripts:
        async with misbehaving(failing) as server:
            async with client_of(server, api_key="s3cret", max_attempts=2) as client:
                with pytest.raises(BillingError) as caught:
                    await client.record_usage(**USAGE)
            shown += [repr(client), str(client), repr(caught.value), str(vars(caught.value))]
            shown += traceback.format_exception(caught.value)
    assert "s3cret" not in "".join(shown)


async def test_a_failure_tells_its_cause() -> None:
    async with misbehaving(disconnect) as server, client_of(server, max_attempts=2) as client:
        with pytest.raises(TransportError, match="ServerDisconnectedError") as caught:
            await client.record_usage(**USAGE)
    assert type(caught.value.__cause__).__name__ == "ServerDisconnectedError"
    assert (caught.value.attempts, caught.value.status) == (2, None)
