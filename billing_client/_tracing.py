"""The trace of a call: OpenTelemetry's, if the application uses it.

A call without a trace gets none. The flag of a made-up trace would decide what the service samples.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from billing_client._calls import ApiCall

TraceHeaders = Callable[[], Mapping[str, str]]
_ID = re.compile(r"(?<=^/customers/)[^/]+|(?<=/usage/)[0-9a-f]{64}")


def call_span(call: ApiCall) -> AbstractContextManager[None]:
    """The span of a call, for as long as the call takes; none in an application that does not trace."""
    if "opentelemetry.trace" not in sys.modules:  # an application that traces has imported it
        return _NO_SPAN
    return _span(call)


_NO_SPAN = nullcontext()


@contextmanager
def _span(call: ApiCall) -> Iterator[None]:
    """The span of a call. Its context goes into the call's headers, so all attempts are in one trace."""
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("billing_client")
    name = f"{call.method} {_ID.sub('{id}', call.path)}"
    with tracer.start_as_current_span(name, kind=trace.SpanKind.CLIENT) as span:
        propagate.inject(call.headers)
        try:
            yield
        finally:
            span.set_attribute("billing.attempts", call.attempts)
