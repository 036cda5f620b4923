"""Find a customer or a record by whatever id is at hand: request id, event id, customer id or a part of a name."""

import re

from starlette.responses import Response

from billing_client.contract.wire import MAX_ID_LENGTH, Refusal
from billing_service.console.formats import path, query
from billing_service.console.pages import View, page_operation, redirect, show, zone_of
from billing_service.console.refusals import REASONS, refused_under
from billing_service.database.pool import Connection
from billing_service.http.requests import ApiRequest
from billing_service.ledger.finds import Found, find_records
from billing_service.ledger.overviews.customer_lines import search_customers

_REQUEST_ID = re.compile(r"[0-9a-f]{64}")
MAX_CUSTOMERS = 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


async def find(request: ApiRequest, _: None) -> Response:
    """Find records and customers. If it is clear which one is meant, its page is shown."""
    zone, text = zone_of(request), (request.query_params.get("q") or "").strip()
    records: list[Found] = []
    customers: list[tuple[str, str]] = []
    refused: list[Refusal] = []
    if text and len(text) <= MAX_ID_LENGTH and not _CONTROL.search(text):
        async with request.services.database.read_connection(is_large=True) as connection:
            records = await _records(request, connection, text)
            if "customers:read" in request.caller.scopes:
                only = request.caller.customer_id
                customers = await search_customers(connection, text, "", MAX_CUSTOMERS + 1, only)
            if not records:
                refused = await _refusals(request, connection, text)
    if not refused and (segments := _only_one(text, records, customers)) is not None:
        return redirect(request, path("customers", *segments) + query(timezone=zone if zone != "UTC" else None))
    return show(
        request,
        "find",
        View(zone, request.services.clock.now()),
        text=text,
        records=records,
        customers=customers[:MAX_CUSTOMERS],
        refusals=refused,
        reasons=REASONS,
        has_more=len(customers) > MAX_CUSTOMERS,
    )


def _only_one(text: str, records: list[Found], customers: list[tuple[str, str]]) -> tuple[str, ...] | None:
    """The address of what must be meant: the one record or customer with this id, or the only one that was found."""
    named = [id_ for id_, _ in customers if id_ == text]
    if len(records) == 1 and not named:
        return records[0].customer_id, "records", records[0].request_id
    if not records and (named or len(customers) == 1):
        return (named[0] if named else customers[0][0],)
    return None


async def _records(request: ApiRequest, connection: Connection, text: str) -> list[Found]:
    """The records with this request id or event id, of the customers that the caller reaches."""
    request_id = bytes.fromhex(text) if _REQUEST_ID.fullmatch(text.lower()) else None
    return await find_records(connection, request_id, text, request.caller.customer_id)


async def _refusals(request: ApiRequest, connection: Connection, text: str) -> list[Refusal]:
    """What was refused under this request id or event id, of the customers that the caller reaches."""
    only = request.caller.customer_id
    found = await refused_under(connection, only, event_id=text)
    if not found and _REQUEST_ID.fullmatch(text.lower()):
        found = await refused_under(connection, only, request_id=bytes.fromhex(text))
    return found


OPERATIONS = [
    page_operation("GET", path("find"), find, "usage:read"),
]
