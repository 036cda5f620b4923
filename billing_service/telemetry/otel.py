"""OpenTelemetry (extra `otel`), imported where it is turned on: a span for each request, commit and statement.

Exporter, sampler and name are set by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`).
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_client import __version__
from billing_service.telemetry.logs import FAILED
from billing_service.telemetry.request_log import OTHER, PROBES, bounded_method, templates_of
from billing_service.telemetry.tracing import Traces


class OpenTelemetryTraces(Traces):
    """Spans in the semantic conventions of OpenTelemetry, for a provider to export.

    From `start` to `stop` all statements of the process have spans, by OpenTelemetry's instrumentation of asyncpg.
    That of ASGI is not used: it puts the whole address into a span, ids and query too, and cannot know the route.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._fields = frozenset(field.lower().encode() for field in propagate.get_global_textmap().fields)
        self._asyncpg = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]  # it has no types
        self._tracer = provider.get_tracer("billing_service", __version__)

    def start(self) -> None:
        self._asyncpg.instrument(tracer_provider=self._provider)

    async def stop(self) -> None:
        self._asyncpg.uninstrument()
        await asyncio.to_thread(self._provider.shutdown)

    def middleware(self, routes: Iterable[Route]) -> list[Middleware]:
        return [Middleware(_Requests, self, templates_of(routes))]

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """The span of a request, in the trace that its caller is in, else in one of its own."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in self._fields
        }
        with self._tracer.start_as_current_span(scope["method"], propagate.extract(carrier), SpanKind.SERVER) as span:
            scope["billing.trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)
            yield span

    def place(self) -> SpanContext:
        return trace.get_current_span().get_span_context()

    @contextmanager
    def commit(self, way: str, places: Sequence[SpanContext]) -> Iterator[None]:
        """It is a child of the first place that is sampled, and linked to the others that are: each of these traces
        either holds the commit or is named by it."""
        first, *others = sorted(places, key=lambda place: not place.trace_flags.sampled)
        parent = trace.set_span_in_context(trace.NonRecordingSpan(first))
        links = [Link(place) for place in others if place.trace_flags.sampled]
        with self._tracer.start_as_current_span(f"commit {way}", parent, links=links):
            yield


class _Requests:
    """Puts each request but those of probes into a span."""

    def __init__(self, app: ASGIApp, traces: OpenTelemetryTraces, templates: Mapping[object, str]) -> None:
        self._app = app
        self._traces = traces
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        status = FAILED

        def note(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        with self._traces.request(scope) as span:
            try:
                await self._app(scope, receive, note)
            finally:
                _describe(span, scope, self._templates.get(scope.get("endpoint"), OTHER), status)


def _describe(span: Span, scope: Scope, route: str, status: int) -> None:
    method = bounded_method(scope["method"])
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "billing.http_request_id": scope["billing.http_request_id"].decode(),
        }
        | {name: scope[name] for name in ("billing.outcome", "billing.code") if name in scope}
    )
    if status >= FAILED:
        span.set_status(StatusCode.ERROR)


def export_traces() -> OpenTelemetryTraces:
    """Spans that are sent by OTLP over HTTP, in the background."""
    named = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "billing-service", "service.version": __version__, **named})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTraces(provider)
