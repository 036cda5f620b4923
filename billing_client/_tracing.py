"""The trace that a call belongs to: OpenTelemetry's where the application uses it, else what its own hook says.

A call without one gets none: a trace that is made up would decide, by its flag, what the service samples.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

TraceHeaders = Callable[[], Mapping[str, str]]
_ID = re.compile(r"(?<=^/customers/)[^/]+|(?<=/usage/)[0-9a-f]{64}")
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def call_span(
    method: str, path: str, headers: MutableMapping[str, str], attempts: Callable[[], int]
) -> AbstractContextManager[None]:
    """The span of a call, whose context goes into these headers, so that all its attempts are in one trace.

    Who traces with OpenTelemetry has imported it; for all others this costs a look into a dict.
    """
    return (
        _span(f"{method} {_ID.sub('{id}', path)}", headers, attempts)
        if "opentelemetry.trace" in sys.modules
        else _NO_SPAN
    )


@contextmanager
def _span(name: str, headers: MutableMapping[str, str], attempts: Callable[[], int]) -> Iterator[None]:
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("billing_client")
    with tracer.start_as_current_span(name, kind=trace.SpanKind.CLIENT) as span:
        propagate.inject(headers)
        try:
            yield
        finally:
            span.set_attribute("billing.attempts", attempts())
