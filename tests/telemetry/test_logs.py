"""The request log: one line per request, as JSON or text, without data or secrets of callers."""

import asyncio
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_service.settings import Settings
from billing_service.telemetry.logs import PIPE_BYTES, RequestLog, _formatter, _pieces
from tests.calls import exchange, get, given_customer, key, post, request_head, send, usage
from tests.databases import Server, database, execute
from tests.keys import bearer, given_key, id_of
from tests.services import Service, running_service, serve_process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
encode_lines = msgspec.json.Encoder().encode_lines


class Logged:
    """A service and what it logs of requests."""

    def __init__(self, service: Service, stream: io.BytesIO) -> None:
        self.service = service
        self._stream = stream

    def text(self) -> str:
        return self._stream.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    async def line(self, count: int = 1) -> dict[str, Any]:
        """The last line, once there are so many."""
        async with asyncio.timeout(30):
            while len(self.lines()) < count:
                await asyncio.to_thread(time.sleep, 0.001)
        return self.lines()[-1]


@contextmanager
def logged(settings: Settings, level: str = "info") -> Iterator[Logged]:
    stream = io.BytesIO()
    with running_service(settings, RequestLog(stream, encode_lines, level)) as service:
        yield Logged(service, stream)


@pytest.fixture(scope="module")
def shared_log(database_server: Server, template_database: str) -> Iterator[Logged]:
    """One service for the tests that look at one line each."""
    with (
        database(database_server, template_database) as name,
        logged(Settings(database_url=database_server.url_of(name))) as log,
    ):
        yield log


async def test_a_request_is_one_line(settings: Settings) -> None:
    with logged(settings) as log:
        async with aiohttp.ClientSession(log.service.url) as http:
            await given_customer(http)
            sent = {"X-Request-Id": "order-17/a", "traceparent": TRACEPARENT}
            assert (await post(http, "/usage", usage(), sent)).status == 201
            line = await log.line(2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert 0 < line.pop("duration_ms") < 30_000
    assert line == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "route": "/usage",
        "status": 201,
        "outcome": "recorded",
        "http_request_id": "order-17/a",
        "trace_id": TRACE,
    }


async def test_what_became_of_usage_is_said(settings: Settings) -> None:
    with logged(settings) as log:
        async with aiohttp.ClientSession(log.service.url) as http:
            await given_customer(http)
            await post(http, "/usage", usage(eventId="1"), key("a"))
            await post(http, "/usage", usage(eventId="1"), key("a"))
            await post(http, "/usage", usage(eventId="1"))
            await post(http, "/usage", usage(eventId="1", service="compute"))
            await post(http, "/usage", usage(customerId="nobody"))
            await post(http, "/usage", usage(pricePerUnit="-1"))
            await post(http, "/usage/batch", {"records": [usage(eventId="1"), usage(eventId="2"), {}]})
            await get(http, "/customers/acme")
            await get(http, "/customers/nobody")
            await get(http, "/no/such/address")
            await log.line(11)
    said = [tuple(line.get(name) for name in ("status", "outcome", "code", "outcomes")) for line in log.lines()]
    assert said == [
        (201, None, None, None),
        (201, "recorded", None, None),
        (201, "replayed", None, None),
        (409, "duplicate", "duplicate_record", None),
        (422, "conflict", "event_id_conflict", None),
        (404, "rejected", "customer_not_found", None),
        (400, "rejected", "validation_error", None),
        (200, None, None, {"duplicate": 1, "recorded": 1, "rejected": 1}),
        (200, None, None, None),
        (404, None, "customer_not_found", None),
        (404, None, "not_found", None),
    ]


async def test_nothing_that_a_caller_wrote_is_logged(settings: Settings) -> None:
    secret = "s3cr3t"
    with logged(settings, "debug") as log:
        async with aiohttp.ClientSession(log.service.url) as http:
            headers = {"Authorization": f"Bearer {secret}", "Cookie": secret, "User-Agent": secret} | key(secret)
            await post(http, "/customers", {"id": secret, "name": secret}, headers)
            await post(http, "/usage", usage(customerId=secret, service=secret, eventId=secret), headers)
            await post(http, "/usage", f'{{"{secret}": 1'.encode(), headers)
            await get(http, f"/customers/{secret}/usage?service={secret}&cursor={secret}&{secret}=1")
            await get(http, f"/{secret}?{secret}")
            await log.line(5)
    assert len(log.lines()) == 5
    assert secret not in log.text().lower()


@pytest.mark.parametrize("sane", ["1", "a" * 128, "Root=1-67891233-abcdef012345678912345678", "a.b:c~d+e/f=g@h_i-j"])
async def test_a_sane_name_of_a_request_is_kept(shared_http: aiohttp.ClientSession, sane: str) -> None:
    assert (await send(shared_http, "GET", "/healthz", headers={"X-Request-Id": sane})).headers["X-Request-Id"] == sane


@pytest.mark.parametrize(
    "given", ["", "a" * 129, "a b", 'a","level":"error', "a\tb", "a\\nb", "ä", "{a}", "a;b", "<a>"]
)
async def test_another_name_is_replaced_and_comes_not_into_the_log(shared_log: Logged, given: str) -> None:
    before = len(shared_log.lines())
    request = request_head("GET", "/customers", f"X-Request-Id: {given}")
    answer = await asyncio.to_thread(exchange, shared_log.service, request)
    line = await shared_log.line(before + 1)
    name = answer.headers["X-Request-Id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", name)
    assert line["http_request_id"] == name
    assert len(shared_log.lines()) == before + 1


async def test_requests_without_a_name_get_one_each(shared_http: aiohttp.ClientSession) -> None:
    answers = [await get(shared_http, path) for path in ("/healthz", "/customers", "/nowhere", "/healthz")]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


@pytest.mark.parametrize(
    "traceparent",
    [
        TRACEPARENT,
        f"00-{TRACE}-00f067aa0ba902b7-00",
        f"00-{TRACE}-00f067aa0ba902b7-ff",
        f"01-{TRACE}-00f067aa0ba902b7-01",
        f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later",
    ],
)
async def test_a_trace_that_a_caller_is_in_is_named_in_the_log_and_in_problems(
    shared_log: Logged, traceparent: str
) -> None:
    before = len(shared_log.lines())
    async with aiohttp.ClientSession(shared_log.service.url) as http:
        answer = await send(http, "GET", "/customers/nobody", headers={"traceparent": traceparent})
    assert (await shared_log.line(before + 1))["trace_id"] == TRACE
    assert answer.problem("customer_not_found")["traceId"] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        TRACEPARENT.upper(),
        TRACEPARENT + "-00",  # version 00 has no more fields
        TRACEPARENT + "0",
        f"cc-{TRACE}-00f067aa0ba902b7-01.00",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE[:-1]}g-00f067aa0ba902b7-01",
    ],
)
async def test_a_traceparent_that_is_not_valid_is_as_none(shared_log: Logged, traceparent: str) -> None:
    before = len(shared_log.lines())
    async with aiohttp.ClientSession(shared_log.service.url) as http:
        answer = await send(http, "GET", "/customers/nobody", headers={"traceparent": traceparent})
    assert "trace_id" not in await shared_log.line(before + 1)
    assert "traceId" not in answer.problem("customer_not_found")


async def test_probes_are_logged_when_they_fail_or_are_asked_for(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    version = await connection.fetchval("SELECT max(version) FROM schema_migrations")
    with logged(settings) as log, logged(settings, "debug") as all_of_it:
        for service in (log.service, all_of_it.service):
            async with aiohttp.ClientSession(service.url) as http:
                assert (await get(http, "/healthz")).status == (await get(http, "/readyz")).status == 200
        await connection.execute("DELETE FROM schema_migrations WHERE version = $1", version)
        async with aiohttp.ClientSession(log.service.url) as http:
            assert (await get(http, "/readyz")).status == 503
        assert (await log.line())["code"] == "unavailable"
        await all_of_it.line(2)
    assert [(line["route"], line["level"]) for line in log.lines()] == [("/readyz", "error")]
    assert [line["route"] for line in all_of_it.lines()] == ["/healthz", "/readyz"]


@pytest.mark.parametrize("level", ["warning", "error"])
async def test_from_warnings_on_only_what_failed_is_logged(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", level: str
) -> None:
    with logged(settings, level) as log:
        async with aiohttp.ClientSession(log.service.url) as http:
            await given_customer(http)
            await get(http, "/no/such/address")
            await connection.execute("ALTER TABLE customers RENAME TO gone")
            answer = await get(http, "/customers")
            line = await log.line()
    assert (line["status"], line["code"], line["level"]) == (500, "internal_error", "error")
    assert line["http_request_id"] == answer.headers["X-Request-Id"]
    assert len(log.lines()) == 1


async def test_a_log_that_nobody_reads_any_more_fails_no_call(settings: Settings) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "wb", buffering=0) as stream,
        running_service(settings, RequestLog(stream, encode_lines, "info")) as service,
    ):
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            assert (await get(http, "/customers/acme")).status == 200


def test_lines_are_written_whole_and_never_more_than_a_pipe_takes_at_once() -> None:
    text = b"".join(b"x" * (2 * n) + b"\n" for n in range(200))
    pieces = list(_pieces(text))
    assert b"".join(pieces) == text
    assert len(pieces) > 5
    assert all(piece.endswith(b"\n") and len(piece) <= PIPE_BYTES for piece in pieces)
    assert list(_pieces(b"one\n")) == [b"one\n"]


async def test_in_production_every_line_is_json_whoever_says_it(tmp_path: Path, database_url: str) -> None:
    api_key = await given_key(database_url, "admin")
    with serve_process(tmp_path, database_url, "--workers", "2", environment={"BILLING_ENV": "production"}) as served:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(served.url, connector=connector, headers=bearer(api_key)) as http:
            await given_customer(http)
            await asyncio.gather(*(post(http, "/usage", usage(eventId=f"{n}")) for n in range(200)))
            await asyncio.to_thread(exchange, as_service(served.url), b"no HTTP\r\n\r\n")
            await execute(database_url, "ALTER TABLE customers RENAME TO gone", "SELECT 1")
            answer = await get(http, "/customers")
            answer.problem("internal_error")
        assert served.service.terminate() == 0
    lines = [json.loads(line) for line in served.service.output.splitlines()]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    assert sum(line.get("outcome") == "recorded" for line in lines) == 200
    requests = [line for line in lines if line["event"] == "request"]
    (refused,) = [line for line in requests if "key_id" not in line]
    assert (refused["status"], refused["code"]) == (400, "validation_error")
    assert {line["key_id"] for line in requests if line is not refused} == {id_of(api_key)}
    assert api_key not in served.service.output
    events = {(line.get("logger"), line["event"]) for line in lines}
    assert any(event.startswith("billing-service ") and ", production, listens on http" in event for _, event in events)
    assert ("uvicorn.error", "Application startup complete.") in events
    faults = [line for line in lines if "exception" in line]
    assert len(faults) == 1
    assert answer.headers["X-Request-Id"] in faults[0]["exception"]
    assert 'relation "customers" does not exist' in faults[0]["exception"]


def as_service(url: str) -> Service:
    host, _, port = url.removeprefix("http://").partition(":")
    return Service(url, host, int(port), Settings())


async def test_in_development_lines_are_for_people(tmp_path: Path, database_url: str) -> None:
    with serve_process(tmp_path, database_url) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            await post(http, "/usage/batch", {"records": [usage(), usage()]}, {"traceparent": TRACEPARENT})
            await get(http, "/no/such/address")
        assert served.service.terminate() == 0
    lines = [line for line in served.service.output.splitlines() if "[info " in line and "request" in line]
    assert [re.sub(r"^\S+|\d+\.\d+|\w+-\w+", "…", line) for line in lines] == [
        "… [info     ] POST /customers 201  in … ms, request …",
        f"… [info     ] POST /usage/batch 200 1 recorded, 1 duplicate in … ms, request …, trace {TRACE}",
        "… [info     ] GET other 404 not_found in … ms, request …",
    ]


@pytest.mark.parametrize("level", ["warning", "info"])
async def test_settings_choose_form_and_level(tmp_path: Path, database_url: str, level: str) -> None:
    environment = {"BILLING_LOG_FORMAT": "json", "BILLING_LOG_LEVEL": level}
    with serve_process(tmp_path, database_url, environment=environment) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
        assert served.service.terminate() == 0
    lines = [json.loads(line) for line in served.service.output.splitlines() if line.startswith("{")]
    assert [line["route"] for line in lines if "route" in line] == (["/customers"] if level == "info" else [])
    assert ("info" in {line["level"] for line in lines}) == (level == "info")


def formatted(message: str, *, for_programs: bool) -> str:
    """A message and the traceback of a fault beside which a secret lay."""
    try:
        password = "s3cr3t"
        raise ValueError(f"{len(password)} characters")
    except ValueError:
        record = logging.LogRecord("a.library", logging.ERROR, __file__, 1, message, (), sys.exc_info())
    return _formatter(for_programs, in_colour=False).format(record)


def test_a_message_cannot_look_like_another_line() -> None:
    message = 'quoted: \n2026-01-01 [error] all is lost\r\x1b[31m\x85 "}'
    text = formatted(message, for_programs=True)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["event"], line["level"], line["logger"]) == (message, "error", "a.library")
    first, *rest = formatted(message, for_programs=False).splitlines()
    assert r"quoted: \x0a2026-01-01 [error] all is lost\x0d\x1b[31m\x85" in first
    assert rest[0].startswith("Traceback")


@pytest.mark.parametrize("for_programs", [True, False])
def test_a_traceback_does_not_show_what_variables_held(for_programs: bool) -> None:
    text = formatted("failed", for_programs=for_programs)
    assert "6 characters" in text
    assert text.count("s3cr3t") == text.count('password = "s3cr3t"') <= 1  # a line of the source, at the most
