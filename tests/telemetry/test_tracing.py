"""Spans of requests, commits and statements, in the caller's trace."""

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from billing_service.settings import Settings
from billing_service.telemetry.logs import RequestLog
from billing_service.telemetry.otel import OpenTelemetryTraces
from tests.calls import get, given_customer, post, send, usage
from tests.commands import failure_of_process
from tests.ledger.test_group_commit import until_a_write_waits, writes_held_up
from tests.scrapes import scrape
from tests.services import Service, free_port, running_service, serve_process

PARENT = "00f067aa0ba902b7"


def trace_id(number: int) -> str:
    return f"{number:032x}"


def traceparent(number: int, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id(number)}-{PARENT}-{flags}"}


class Traced:
    """A service whose spans stay in memory."""

    def __init__(self, service: Service, exporter: InMemorySpanExporter, log: io.BytesIO) -> None:
        self.service = service
        self._exporter = exporter
        self._log = log

    async def spans(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The spans of this name, once there are so many."""
        async with asyncio.timeout(30):
            while True:
                found = [span for span in self.all_spans() if span.name == name]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.005)

    def all_spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    async def logged(self, trace: str) -> None:
        """Wait until a line of the log names this trace."""
        async with asyncio.timeout(30):
            while True:
                if any(json.loads(line)["trace_id"] == trace for line in self._log.getvalue().splitlines()):
                    return
                await asyncio.sleep(0.005)


@pytest.fixture
def traced(settings: Settings) -> Iterator[Traced]:
    exporter, log = InMemorySpanExporter(), io.BytesIO()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    request_log = RequestLog(log, msgspec.json.Encoder().encode_lines, "info")
    with running_service(settings, request_log, OpenTelemetryTraces(provider)) as service:
        yield Traced(service, exporter, log)


@pytest.fixture
async def traced_http(traced: Traced) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(traced.service.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def trace_of(span: ReadableSpan) -> str:
    return format_trace_id(span.context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format_span_id(span.parent.span_id)


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return trace_of(span) == trace_of(parent) and parent_of(span) == format_span_id(parent.context.span_id)


async def test_a_record_is_one_trace_from_its_caller_to_the_statement(
    traced: Traced, traced_http: aiohttp.ClientSession
) -> None:
    await given_customer(traced_http)
    (await post(traced_http, "/usage", usage(), traceparent(1) | {"X-Request-Id": "order-17"})).require(201)
    (request,) = await traced.spans("POST /usage")
    assert (trace_of(request), parent_of(request), request.kind) == (trace_id(1), PARENT, SpanKind.SERVER)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/usage",
        "http.response.status_code": 201,
        "billing.http_request_id": "order-17",
        "billing.outcome": "recorded",
    }
    (commit,) = await traced.spans("commit single")
    assert is_child(commit, request)
    statements = [span for span in traced.all_spans() if is_child(span, commit)]
    assert any("record_one_usage" in str((span.attributes or {})["db.statement"]) for span in statements)


async def test_without_a_caller_s_trace_a_request_begins_one_that_log_and_problem_name(
    traced: Traced, traced_http: aiohttp.ClientSession
) -> None:
    for count, headers in enumerate(({}, {"traceparent": "00-1-2-3"}), start=1):
        answer = await send(traced_http, "GET", "/customers/nobody", headers=headers)
        *_, request = await traced.spans("GET /customers/{customer_id}", count)
        assert parent_of(request) is None
        assert trace_of(request) == answer.problem("customer_not_found")["traceId"]
        await traced.logged(trace_of(request))
        assert (request.attributes or {})["billing.code"] == "customer_not_found"
        assert request.status.status_code is StatusCode.UNSET


async def test_a_batch_is_one_trace(traced: Traced, traced_http: aiohttp.ClientSession) -> None:
    await given_customer(traced_http)
    await post(traced_http, "/usage/batch", {"records": [usage()]}, traceparent(1))
    (request,) = await traced.spans("POST /usage/batch")
    (commit,) = await traced.spans("commit batch")
    assert is_child(commit, request)


async def test_a_commit_is_in_the_trace_of_one_call_and_linked_to_the_others_that_are_sampled(
    traced: Traced,
    traced_http: aiohttp.ClientSession,
    connection: "asyncpg.Connection[asyncpg.Record]",
    database_url: str,
) -> None:
    await given_customer(traced_http)
    async with writes_held_up(connection):
        calls = [asyncio.create_task(post(traced_http, "/usage", usage(eventId="0"), traceparent(1)))]
        await until_a_write_waits(database_url)
        for number, flags in ((2, "00"), (3, "01"), (4, "01"), (5, "01")):
            headers = traceparent(number, flags)
            calls.append(asyncio.create_task(post(traced_http, "/usage", usage(eventId=f"{number}"), headers)))
            while await queued(traced_http) < number - 1:
                pass
    for answer in await asyncio.gather(*calls):
        answer.require(201)
    first, second = await traced.spans("commit single", 2)
    assert (trace_of(first), list(first.links)) == (trace_id(1), [])
    assert trace_of(second) == trace_id(3)
    assert [format_trace_id(link.context.trace_id) for link in second.links] == [trace_id(4), trace_id(5)]
    assert {trace_of(span) for span in await traced.spans("POST /usage", 4)} == {trace_id(n) for n in (1, 3, 4, 5)}


async def queued(http: aiohttp.ClientSession) -> float:
    return (await scrape(http)).value("billing_queue_records")


async def test_probes_have_no_spans(traced: Traced, traced_http: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/readyz"):
        (await get(traced_http, path)).require(200)
    await queued(traced_http)
    await get(traced_http, "/no/such/address")
    await traced.spans("GET other")
    assert not [span.name for span in traced.all_spans() if span.name.startswith("GET /")]


async def test_a_fault_is_an_error_of_its_span(
    traced: Traced, traced_http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("ALTER TABLE customers RENAME TO gone")
    answer = await get(traced_http, "/customers")
    (request,) = await traced.spans("GET /customers")
    assert answer.problem("internal_error")["traceId"] == trace_of(request)
    assert request.status.status_code is StatusCode.ERROR
    assert (request.attributes or {})["http.response.status_code"] == 500


async def test_nothing_that_a_caller_wrote_is_in_a_span(traced: Traced, traced_http: aiohttp.ClientSession) -> None:
    secret = "s3cr3t"
    headers = {"Authorization": f"Bearer {secret}"}
    await post(traced_http, "/customers", {"id": secret, "name": secret})
    await post(traced_http, "/usage", usage(customerId=secret, service=secret, eventId=secret))
    await get(traced_http, f"/customers/{secret}/usage?service={secret}")
    await send(traced_http, "GET", f"/customers/{secret}?{secret}=1", headers=headers)
    await traced.spans("GET /customers/{customer_id}")
    assert secret not in "".join(span.to_json() for span in traced.all_spans())


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.exports: list[ExportTraceServiceRequest] = []


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.exports.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_spans_are_exported_by_otlp_all_of_them_at_a_stop(
    tmp_path: Path, database_url: str, workers: str
) -> None:
    with collector() as collected:
        environment = {
            "BILLING_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collected.server_port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=a-test",
        }
        with serve_process(tmp_path, database_url, "--workers", workers, environment=environment) as served:
            async with aiohttp.ClientSession(served.url) as http:
                await given_customer(http)
                (await post(http, "/usage", usage(), traceparent(1))).require(201)
            assert served.service.terminate() == 0
    resources = [resource for export in collected.exports for resource in export.resource_spans]
    attributes = {one.key: one.value.string_value for one in resources[0].resource.attributes}
    assert attributes["service.name"] == "billing-service"
    assert attributes["deployment.environment.name"] == "a-test"
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    of_record = {span.name for span in spans if span.trace_id.hex() == trace_id(1)}
    assert {"POST /usage", "commit single", "SELECT"} <= of_record


def test_a_collector_that_is_away_holds_up_no_stop(tmp_path: Path, database_url: str) -> None:
    environment = {"BILLING_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with serve_process(tmp_path, database_url, environment=environment) as served:
        asyncio.run(record_something(served.url))
        started = time.monotonic()
        assert served.service.terminate() == 0
        assert time.monotonic() - started < 30


async def record_something(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        await given_customer(http)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_installation_without_opentelemetry_says_what_is_missing(
    tmp_path: Path, database_url: str, workers: str
) -> None:
    broken = tmp_path / "packages" / "opentelemetry"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not installed', name='opentelemetry')")
    search_path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": search_path, "BILLING_TRACES": "otlp", "DATABASE_URL": database_url}
    arguments = ("serve", "--port", str(free_port()), "--workers", workers)
    line = failure_of_process(tmp_path, *arguments, BILLING_LOG_FORMAT="json", BILLING_LOG_LEVEL="error", **environment)
    assert "BILLING_TRACES: OpenTelemetry is not installed" in line
    assert "billing-system[service,otel]" in line


def test_while_it_is_off_nothing_that_makes_or_sends_spans_is_imported() -> None:
    """The library of the limits imports by itself what OpenTelemetry has for metrics, where that is installed."""
    program = """
import sys
from billing_service.app import create_app
from billing_service.settings import Settings
create_app(Settings())
parts = ("opentelemetry.sdk.trace.export", "opentelemetry.instrumentation", "opentelemetry.exporter")
print(sorted(name for name in sys.modules if name.startswith(parts)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
