"""OpenTelemetry (extra `otel`), imported where it is turned on: a span for each request, commit and statement.

Exporter, sampler and name are set by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from billing_client import __version__
from billing_service.telemetry.logs import FAILED
from billing_service.telemetry.request_log import PROBES, RequestInfo, bounded_method
from billing_service.telemetry.tracing import Traces


class OpenTelemetryTraces(Traces):
    """Spans in the semantic conventions of OpenTelemetry, for a provider to export.

    From `start` to `stop` all statements of the process have spans, by OpenTelemetry's instrumentation of asyncpg.
    That of ASGI is not used: it puts the whole address into a span, ids and query too, and cannot know the route.
    """

    is_on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._fields = [(field, field.lower().encode()) for field in propagate.get_global_textmap().fields]
        self._asyncpg = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]  # it has no types
        self._tracer = provider.get_tracer("billing_service", __version__)

    def start(self) -> None:
        self._asyncpg.instrument(tracer_provider=self._provider)

    async def stop(self) -> None:
        self._asyncpg.uninstrument()
        await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def request(self, info: RequestInfo, headers: Mapping[bytes, bytes]) -> Iterator[None]:
        """The span of a request, in the trace that its caller is in, else in one of its own; none for a probe."""
        if info.route in PROBES:
            yield
            return
        carrier = {field: headers[name].decode("latin-1") for field, name in self._fields if name in headers}
        method = bounded_method(info.method)
        with self._tracer.start_as_current_span(method, propagate.extract(carrier), SpanKind.SERVER) as span:
            info.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            try:
                yield
            finally:
                _describe(span, info, method)

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


def _describe(span: Span, info: RequestInfo, method: str) -> None:
    span.update_name(f"{method} {info.route}")
    attributes: dict[str, AttributeValue | None] = {
        "http.request.method": method,
        "http.route": info.route,
        "http.response.status_code": info.status,
        "billing.http_request_id": info.http_request_id.decode(),
        "billing.outcome": info.outcome,
        "billing.code": info.code,
    }
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if info.status >= FAILED:
        span.set_status(StatusCode.ERROR)


def export_traces() -> OpenTelemetryTraces:
    """Spans that are sent by OTLP over HTTP, in the background."""
    named = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "billing-service", "service.version": __version__, **named})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTraces(provider)
