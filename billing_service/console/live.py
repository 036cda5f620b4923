"""What changes, as it changes, for the pages: the events of the API, for who signed in."""

from starlette.responses import Response

from billing_client.contract.query_parameters import EventsQuery
from billing_service.console.formats import path
from billing_service.console.pages import page_operation
from billing_service.http.event_streams import EventStreamResponse, last_event_id
from billing_service.http.requests import ApiRequest

STREAM_SECONDS = 60.0  # then the browser asks again, and whether its session still holds is looked up


async def stream_events(request: ApiRequest, query: EventsQuery) -> Response:
    """Stream what changes of a customer, or of all that the caller reaches."""
    if query.customer_id is not None:
        request.caller.require_reach(query.customer_id)
    streams = request.services.event_streams
    caller = request.caller.key_id or request.address
    streams.require_room(caller)
    stream = await streams.begin(query.customer_id or request.caller.customer_id, last_event_id(request.fields))
    streams.require_room(caller)  # others may have come meanwhile
    return EventStreamResponse(streams, stream, caller, None, min(query.seconds, STREAM_SECONDS))


OPERATIONS = [
    page_operation("GET", path("events"), stream_events, "usage:read", query=EventsQuery),
]
