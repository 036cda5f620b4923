"""The trace of a call: one for all its attempts, by OpenTelemetry or by a hook of the application's own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from billing_client import BillingSystemClient, CustomerNotFoundError
from tests.client.answers import USAGE, client_of, recorded
from tests.client.misbehaving import Request, answer, disconnect, misbehaving

BUSY = answer(503, Retry_After="0")


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """Where the spans of this process go, from now on: OpenTelemetry takes one provider and no other after it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def traceparent(span: ReadableSpan) -> str:
    context = span.context
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


async def test_all_attempts_of_a_call_have_one_name_in_the_log() -> None:
    async with misbehaving(BUSY, disconnect, recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE, idempotency_key="call-1")
        await client.record_usage(**USAGE)
    names = [request.header("X-Request-Id") for request in server.requests]
    assert names[:3] == ["call-1"] * 3
    assert names[3] == server.requests[3].header("Idempotency-Key") != "call-1"


async def test_a_hook_is_asked_once_for_each_call() -> None:
    numbers = count(1)
    async with (
        misbehaving(BUSY, recorded()) as server,
        client_of(
            server, trace_headers=lambda: {"traceparent": f"trace-{next(numbers)}", "tracestate": "a=b"}
        ) as client,
    ):
        await client.record_usage(**USAGE)
        await client.record_usage(**USAGE)
    sent = [(request.header("traceparent"), request.header("tracestate")) for request in server.requests]
    assert sent == [("trace-1", "a=b"), ("trace-1", "a=b"), ("trace-2", "a=b")]


def test_without_opentelemetry_no_trace_is_made_up_and_nothing_is_imported() -> None:
    program = """
import asyncio, sys
from tests.client.answers import USAGE, client_of, recorded
from tests.client.misbehaving import misbehaving

async def main():
    async with misbehaving(recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
    print(server.requests[0].all("traceparent"), [name for name in sys.modules if name.startswith("opentelemetry")])

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] []\n"


async def test_a_call_is_a_span_and_all_its_attempts_are_sent_from_it(spans: InMemorySpanExporter) -> None:
    async with misbehaving(BUSY, disconnect, recorded()) as server, client_of(server) as client:
        with trace.get_tracer("the application").start_as_current_span("a job"):
            await client.record_usage(**USAGE)
    call, job = spans.get_finished_spans()
    assert (call.name, call.attributes) == ("POST /usage", {"billing.attempts": 3})
    assert is_child(call, job)
    assert [request.header("traceparent") for request in server.requests] == [traceparent(call)] * 3


async def test_a_call_that_fails_is_an_error_of_its_span(
    spans: InMemorySpanExporter, client: BillingSystemClient
) -> None:
    with pytest.raises(CustomerNotFoundError):
        await client.get_customer(customer_id="nobody")
    with pytest.raises(CustomerNotFoundError):
        await client.void_usage(customer_id="nobody", request_id="ab" * 32, reason="a test")
    read, void = spans.get_finished_spans()
    assert (read.name, void.name) == ("GET /customers/{id}", "POST /customers/{id}/usage/{id}/void")
    assert read.status.status_code is StatusCode.ERROR
    assert re.match("CustomerNotFoundError", read.status.description or "")


async def test_with_aiohttp_instrumented_each_attempt_is_a_span_of_its_own(spans: InMemorySpanExporter) -> None:
    AioHttpClientInstrumentor().instrument()
    try:
        async with misbehaving(BUSY, recorded()) as server, client_of(server) as client:
            await client.record_usage(**USAGE)
    finally:
        AioHttpClientInstrumentor().uninstrument()
    *attempts, call = spans.get_finished_spans()
    assert [is_child(attempt, call) for attempt in attempts] == [True, True]
    assert sent(server.requests) == [traceparent(attempt) for attempt in attempts]


def sent(requests: list[Request]) -> list[str]:
    return [request.header("traceparent") for request in requests]
