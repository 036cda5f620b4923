"""`GET /events`, over real sockets: what it tells, from which process, to whom, and what it costs."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from billing_service.console.pages import csrf_token
from billing_service.http import event_streams
from billing_service.http.sessions import SESSION_COOKIE
from billing_service.ledger.changes import KEPT_SECONDS
from billing_service.pace import Pace
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, request_head, usage
from tests.databases import execute
from tests.keys import bearer, given_key, given_stored_customer, id_of, revoke
from tests.services import Service, running_service, serve_process, until

PATIENCE_SECONDS = 20
TELL = "INSERT INTO changes (changed_at, kind, customer_ids, more)"


class Event(NamedTuple):
    """An event as a browser dispatches it, with the last id there was."""

    name: str
    data: Any
    id: str | None


class Events:
    """Reads a stream as the HTML Living Standard says, section 9.2.6."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.id: str | None = None

    async def next(self) -> Event:
        """The next event. Raises EOFError at the end of the stream."""
        name, data = "message", ""
        while True:
            field, value = await self._line()
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif not field and data:
                return Event(name, json.loads(data), self.id)

    async def _line(self) -> tuple[str, str]:
        """The field and the value of the next line. Raises EOFError at the end of the stream."""
        line = (await asyncio.wait_for(self.response.content.readline(), PATIENCE_SECONDS)).decode()
        if not line:
            raise EOFError
        field, _, value = line.rstrip("\n").partition(": ")
        if field == "id":
            self.id = value
        return field, value

    async def until(self, holds: Callable[[Event], bool]) -> Event:
        """The next event of which something holds."""
        while not holds(event := await self.next()):
            pass
        return event

    async def end(self) -> None:
        """Wait for the end of the stream. Its heartbeats do not prolong the wait."""
        with suppress(EOFError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    await self.next()

    async def has_moved(self) -> str:
        """The id at the end of what has come, once there is one."""
        while self.id is None:
            await self._line()
        return self.id


@asynccontextmanager
async def listening(
    http: aiohttp.ClientSession, query: str = "", headers: dict[str, str] | None = None, path: str = "/events"
) -> AsyncIterator[Events]:
    async with http.get(f"{path}{query}", headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        yield Events(response)


def about(name: str, customer_id: str) -> Callable[[Event], bool]:
    return lambda event: event.name == name and customer_id in event.data["customerIds"]


async def test_what_changes_is_told(shared_http: aiohttp.ClientSession, customer: str) -> None:
    async with listening(shared_http) as everything, listening(shared_http, f"?customerId={customer}") as one:
        assert [(await each.next()).name for each in (everything, one)] == ["reset", "reset"]
        record = (await post(shared_http, "/usage", usage(customerId=customer, eventId="1"))).require(201)
        for events in (everything, one):
            await events.until(about("totals", customer))
        conflict = usage(customerId=customer, eventId="1", unitsConsumed="2")
        (await post(shared_http, "/usage", conflict)).problem("event_id_conflict")
        for events in (everything, one):
            await events.until(about("refusals", customer))
        assert len((await get(shared_http, f"/refusals?customerId={customer}")).require(200)["data"]) == 1
        path = f"/customers/{customer}/usage/{record['requestId']}/void"
        (await post(shared_http, path, {"reason": "a test"})).require(200)
        for events in (everything, one):
            await events.until(about("totals", customer))
        (await post(shared_http, "/usage/batch", {"records": [usage(customerId=customer)]})).require(200)
        event = await one.until(about("totals", customer))
        assert event.data == {"customerIds": [customer], "more": False}


async def test_of_other_customers_a_stream_tells_nothing(database_url: str) -> None:
    with running_service(Settings(database_url=database_url, env="production")) as service:
        admin = bearer(await given_key(database_url, "admin"))
        async with aiohttp.ClientSession(service.url, headers=admin) as http:
            for id_ in ("mine", "theirs"):
                await given_customer(http, id_)
            mine = bearer(await given_key(database_url, "usage:read", customer_id="mine"))
            (await get(http, "/events?customerId=mine&customerId=theirs")).problem(
                "validation_error", "query/customerId"
            )
            async with http.get("/events?customerId=theirs", headers=mine) as refused:
                assert refused.status == 403
            async with listening(http, headers=mine) as events:
                assert (await events.next()).name == "reset"
                for id_ in ("theirs", "mine"):
                    (await post(http, "/usage", usage(customerId=id_))).require(201)
                event = await events.until(lambda event: event.name == "totals")
                assert event.data == {"customerIds": ["mine"], "more": False}


async def test_every_process_tells_of_all_and_a_stream_goes_on_where_it_was_cut(
    tmp_path: Path, database_url: str
) -> None:
    with (
        serve_process(tmp_path / "a", database_url) as one,
        running_service(Settings(database_url=database_url)) as other,
    ):
        async with aiohttp.ClientSession(one.url) as http, aiohttp.ClientSession(other.url) as elsewhere:
            for id_ in ("acme", "beta", "gamma"):
                await given_customer(http, id_)
            async with listening(elsewhere) as events:
                assert (await events.next()).name == "reset"
                (await post(http, "/usage", usage())).require(201)
                last = (await events.until(about("totals", "acme"))).id or await events.has_moved()
            (await post(http, "/usage", usage(customerId="beta"))).require(201)
            (await post(elsewhere, "/usage", usage(customerId="gamma"))).require(201)
            for session in (http, elsewhere):
                async with listening(session, headers={"Last-Event-ID": last}) as events:
                    told: set[str] = set()
                    while not {"beta", "gamma"} <= told:
                        event = await events.next()
                        assert event.name == "totals"
                        told |= set(event.data["customerIds"])


async def test_whoever_missed_too_much_is_told_so(service: Service, http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    (await post(http, "/usage", usage(eventId="1"))).require(201)
    async with listening(http) as events:
        last = await events.has_moved()
    for strange in ("999999999", "x", "-1", "9" * 30):
        async with listening(http, headers={"Last-Event-ID": strange}) as events:
            assert (await events.next()).name == "reset"
    url = str(service.settings.database_url)
    many = f"generate_series(1, {event_streams.MAX_READ})"
    await execute(url, f"{TELL} SELECT now(), 'totals', '{{}}', true FROM {many}", "SELECT 1")
    async with listening(http, headers={"Last-Event-ID": last}) as events:
        assert (await events.next()).name == "reset"
    await execute(url, f"DELETE FROM changes WHERE change_id <= {int(last) + 1}", "SELECT 1")
    async with listening(http, headers={"Last-Event-ID": last}) as events:
        assert (await events.next()).name == "reset"


async def test_what_is_told_is_deleted_after_a_while(database_url: str) -> None:
    at = f"now() - interval '{KEPT_SECONDS + 60} s'"
    await execute(database_url, f"{TELL} VALUES ({at}, 'totals', '{{}}', true)", "SELECT 1")
    with running_service(Settings(database_url=database_url)):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await execute(database_url, "SELECT min(change_id) FROM changes") == 1:  # noqa: ASYNC110 - no event tells of a database
                await asyncio.sleep(0.05)


async def test_it_says_something_while_nothing_changes(shared_service: Service, customer: str) -> None:
    with running_service(shared_service.settings, pace=Pace(heartbeat_seconds=0.1)) as service:
        async with aiohttp.ClientSession(service.url) as http, listening(http, f"?customerId={customer}") as events:
            assert (await events.next()).name == "reset"
            for _ in range(10):
                assert await asyncio.wait_for(events.response.content.readline(), PATIENCE_SECONDS)


async def test_it_ends_when_it_was_told_to(shared_http: aiohttp.ClientSession) -> None:
    async with listening(shared_http, "?seconds=1") as events:
        await events.end()
    async with shared_http.head("/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
    for seconds in ("0", "86401", "x"):
        (await get(shared_http, f"/events?seconds={seconds}")).problem("validation_error", "query/seconds")


async def test_it_ends_when_its_key_does(database_url: str) -> None:
    pace = Pace(key_seconds=0.1, refusal_seconds=0.05, poll_seconds=0.05)
    with running_service(Settings(database_url=database_url, env="production"), pace=pace) as service:
        keys = [await given_key(database_url, "usage:read") for _ in range(2)]
        async with (
            aiohttp.ClientSession(service.url) as http,
            listening(http, headers=bearer(keys[0])) as revoked,
            listening(http, "?seconds=3600", bearer(keys[1])) as other,
        ):
            await revoke(database_url, keys[0])
            await revoked.end()
            (await post(http, "/usage", usage(), bearer(await given_key(database_url, "admin")))).problem(
                "customer_not_found"
            )
            await other.until(lambda event: event.name == "refusals")


async def sign_in(http: aiohttp.ClientSession, key: str) -> dict[str, str]:
    """Sign in to the console; the header that shows the session."""
    fields = {"key": key, "csrf": csrf_token("before")}
    before = {"Cookie": f"{SESSION_COOKIE}=before"}
    async with http.post("/console/sign-in", data=fields, headers=before, allow_redirects=False) as answer:
        assert answer.status == 303
        return {"Cookie": f"{SESSION_COOKIE}={answer.cookies[SESSION_COOKIE].value}"}


async def test_a_stream_ends_with_the_right_to_read_it(database_url: str) -> None:
    """A key's, and that of who signed in with one: revoked, without its scope, of another customer, or signed out."""
    losses = [
        "SET revoked_at = now()",
        "SET scopes = '{usage:write}'",
        "SET customer_id = 'acme'",
    ]
    pace = Pace(key_seconds=0.1, poll_seconds=0.05)
    async with AsyncExitStack() as stack:
        service = stack.enter_context(running_service(Settings(database_url=database_url, env="production"), pace=pace))
        http = await stack.enter_async_context(aiohttp.ClientSession(service.url, cookie_jar=aiohttp.DummyCookieJar()))
        await given_stored_customer(database_url, "acme")
        stays = await stack.enter_async_context(listening(http, headers=bearer(await given_key(database_url, "admin"))))
        for loss in (*losses, None):
            key = await given_key(database_url, "usage:read")
            session = await sign_in(http, key)
            streams = [
                await stack.enter_async_context(listening(http, headers=bearer(key))),
                await stack.enter_async_context(listening(http, "?seconds=3600", session, path="/console/events")),
            ]
            if loss is None:
                await execute(database_url, "DELETE FROM console_sessions")
                await streams[1].end()
            else:
                await execute(database_url, f"UPDATE api_keys {loss} WHERE key_id = '{id_of(key)}'")
                for stream in streams:
                    await stream.end()
        await execute(database_url, f"{TELL} VALUES (now(), 'totals', '{{acme}}', false)")
        await stays.until(about("totals", "acme"))


async def test_streams_are_bounded_in_all_and_for_one_caller(database_url: str) -> None:
    settings = Settings(database_url=database_url, env="production", max_event_streams=2)
    with running_service(settings) as service:
        first, second, third = [bearer(await given_key(database_url, "usage:read")) for _ in range(3)]
        async with aiohttp.ClientSession(service.url) as http, listening(http, headers=first):
            async with http.get("/events", headers=first) as refused:
                assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)
            async with listening(http, headers=second), http.get("/events", headers=third) as refused:
                assert refused.status == 503
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:  # until the service has noticed that the second went away
                    async with http.get("/events", headers=third) as taken:
                        if taken.status == 200:
                            break


async def test_streams_that_are_asked_for_at_once_are_bounded_too(database_url: str) -> None:
    with running_service(Settings(database_url=database_url, max_event_streams=20)) as service:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(service.url, connector=connector) as http:
            answers = await asyncio.gather(*(http.get("/events") for _ in range(30)))
            try:
                assert sorted(answer.status for answer in answers) == [200] * 2 + [503] * 28
            finally:
                for answer in answers:
                    answer.close()


async def test_a_reader_that_does_not_read_costs_nobody_anything(database_url: str) -> None:
    with running_service(Settings(database_url=database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            with socket.socket() as stuck:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                stuck.connect((service.host, service.port))
                stuck.sendall(request_head("GET", "/events"))
                async with listening(http) as events:
                    names = [f"customer {n} {'x' * 90}" for n in range(1_000)]
                    for n in range(3):  # more than the buffers of a connection hold
                        ids = ",".join(f"'{n} {name}'" for name in names)
                        await execute(database_url, f"{TELL} SELECT now(), 'totals', ARRAY[{ids}], false", "SELECT 1")
                        await events.until(about("totals", f"{n} {names[-1]}"))
                    (await post(http, "/usage", usage())).require(201)
                    await events.until(about("totals", "acme"))


async def test_it_ends_when_the_service_stops(tmp_path: Path, database_url: str) -> None:
    with serve_process(tmp_path, database_url, environment={"BILLING_SHUTDOWN_TIMEOUT": "600"}) as served:
        async with aiohttp.ClientSession(served.url) as http, listening(http) as events:
            assert (await events.next()).name == "reset"
            served.service.process.send_signal(signal.SIGTERM)
            await events.end()
            await until(lambda: served.service.process.poll() is not None)
    assert served.service.wait() == 0
    assert "Traceback" not in served.service.output
