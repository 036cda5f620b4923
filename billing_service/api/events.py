"""The endpoint of events: what changes, as it changes."""

from functools import partial

from starlette.responses import Response

from billing_client.contract.query_parameters import EventsQuery
from billing_service.http.event_streams import EVENT_STREAM, EventStreamResponse, last_event_id
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest


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
    stream = await streams.begin(query.customer_id or request.caller.customer_id, last_event_id(request.fields))
    streams.require_room(caller)  # others may have come meanwhile
    authorization = request.fields.get(b"authorization")
    find_caller = None if authorization is None else partial(request.services.authenticator.find, authorization)
    return EventStreamResponse(streams, stream, caller, find_caller, query.seconds)


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
