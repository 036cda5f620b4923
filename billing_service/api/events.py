"""The endpoint of events: what changes, as it changes."""

import re
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from billing_client.contract.query_parameters import EventsQuery
from billing_service.http.event_streams import EventStreams, Stream
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest

EVENT_STREAM = "text/event-stream"
_NUMBER = re.compile(r"[0-9]{1,18}")
_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would collect the stream


async def stream_events(request: ApiRequest, query: EventsQuery) -> Response:
    """Stream what changes, of one customer or of all, as Server-Sent Events. The events are `totals`, `refusals` and
    `statements`; `data` has `customerIds`, and `more` if other customers changed too. They say what to read again,
    within 2 seconds of the commit by any process. `reset` means that everything may have changed: it comes first unless
    `Last-Event-ID` is sent, and when too much was missed. A stream says something every 10 seconds. It ends when its
    API key does."""
    if query.customer_id is not None:
        request.caller.require_reach(query.customer_id)
    streams = request.services.event_streams
    caller = request.caller.key_id or request.address
    streams.require_room(caller)
    stream = await streams.begin(query.customer_id or request.caller.customer_id, _last_event_id(request))
    authorization = request.fields.get(b"authorization")
    return _EventStream(streams, stream, caller, authorization, query.seconds)


def _last_event_id(request: ApiRequest) -> int | None:
    """The number in `Last-Event-ID`; None where there is none, or one that is not of this service."""
    value = request.fields.get(b"last-event-id", b"").decode("latin-1")
    return int(value) if _NUMBER.fullmatch(value) else None


class _EventStream(StreamingResponse):
    """Registers the stream while the response is being sent."""

    def __init__(
        self, streams: EventStreams, stream: Stream, caller: str, authorization: bytes | None, seconds: float
    ) -> None:
        super().__init__(stream.chunks(seconds), headers=_HEADERS, media_type=EVENT_STREAM)
        self._opened: Any = (stream, caller, authorization)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # the response has no body
            await Response(headers=_HEADERS, media_type=EVENT_STREAM)(scope, receive, send)
            return
        with self._streams.opened(*self._opened):
            await super().__call__(scope, receive, send)


OPERATIONS = [
    Operation(
        method="GET",
        path="/events",
        handler=stream_events,
        tag="usage",
        scope="usage:read",
        reach="handler",
        query=EventsQuery,
        answer=str,
        media_types=(EVENT_STREAM,),
    )
]
