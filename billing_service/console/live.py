"""What changes, as it changes, for the pages: the events of the API, for who signed in."""

from functools import partial

from starlette.responses import Response

from billing_client.contract.query_parameters import EventsQuery
from billing_service.console.formats import path
from billing_service.console.pages import page_operation
from billing_service.http.event_streams import EventStreamResponse, FindCaller, last_event_id
from billing_service.http.requests import ApiRequest
from billing_service.http.sessions import SESSION_COOKIE

STREAM_SECONDS = 60.0  # then the browser asks again


async def stream_events(request: ApiRequest, query: EventsQuery) -> Response:
    """Stream what changes of a customer, or of all that the caller reaches."""
    if query.customer_id is not None:
        request.caller.require_reach(query.customer_id)
    streams = request.services.event_streams
    caller = request.caller.key_id or request.address
    streams.require_room(caller)
    stream = await streams.begin(query.customer_id or request.caller.customer_id, last_event_id(request.fields))
    streams.require_room(caller)  # others may have come meanwhile
    return EventStreamResponse(streams, stream, caller, _find_caller(request), min(query.seconds, STREAM_SECONDS))


def _find_caller(request: ApiRequest) -> FindCaller | None:
    """How to look up anew who signed in, or sent a key; None where no key was needed."""
    if request.caller.key_id is None:
        return None
    if authorization := request.fields.get(b"authorization"):
        return partial(request.services.authenticator.find, authorization)
    return partial(request.services.sessions.find, request.cookies.get(SESSION_COOKIE))


OPERATIONS = [
    page_operation("GET", path("events"), stream_events, "usage:read", query=EventsQuery),
]
