"""OpenTelemetry traces: a span for each request, commit and statement. Needs the extra `otel`; imported only if used.

OpenTelemetry's own environment variables configure the exporter, the sampler and the service name
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`).
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
from billing_service.telemetry.request_log import RequestInfo, bounded_method
from billing_service.telemetry.tracing import Traces


class OpenTelemetryTraces(Traces):
    """Makes spans that follow OpenTelemetry's semantic conventions. A provider exports them.

    Between `start` and `stop`, OpenTelemetry's asyncpg instrumentation adds a span for each statement of the process.
    """

    # The ASGI instrumentation is not used: it puts the whole URL, with ids and query, into a span and does not know
    # the route.

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
        """Open the span of a request: in its caller's trace if it names one, else in a new one. Probes have no span."""
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
        """Open the span of a commit: a child of the first sampled span in `places`, linked to the other sampled ones.

        So every sampled trace either contains the commit or is linked from it.
        """
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
    """Traces that are exported by OTLP over HTTP, in the background."""
    named = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "billing-service", "service.version": __version__, **named})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTraces(provider)
