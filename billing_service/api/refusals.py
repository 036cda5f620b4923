"""The endpoints of refusals: what was not recorded, and why."""

import re
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct
from starlette.responses import Response

from billing_client.contract.query_parameters import RefusalCountsQuery, RefusalsQuery
from billing_client.contract.request_parsing import read_span
from billing_client.contract.wire import RefusalCounts, RefusalPage
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import invalid_input
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger import refusals
from billing_service.ledger.refusals import LAST, Filter

_KEY = re.compile(r"bk_[0-9a-f]{16}")
_REQUEST_ID = re.compile(r"[0-9a-f]{64}")


class _Position(Struct, array_like=True, frozen=True):
    refusal_id: Annotated[bytes, Meta(min_length=16, max_length=16)]


async def list_refusals(request: ApiRequest, query: RefusalsQuery) -> Response:
    """List refused usage, latest first. Event ids that came back with other data, input that is not valid, and unknown
    customers are kept for some time and up to some number; duplicates are not. A key that is bound to a customer sees
    what was refused to that customer. A refusal is listed within seconds."""
    wanted = _filter(request, query)
    scope = repr(("refusals", wanted))
    before = UUID(bytes=read_cursor(scope, query.cursor, _Position).refusal_id) if query.cursor else LAST
    async with request.services.database.read_connection() as connection:
        found = await refusals.list_refusals(connection, wanted, before, query.limit + 1)
    cursor = None
    if len(found) > query.limit:
        cursor = write_cursor(scope, _Position(UUID(found[query.limit - 1].id).bytes))
    return JsonResponse(RefusalPage(data=found[: query.limit], next_cursor=cursor))


def _filter(request: ApiRequest, query: RefusalsQuery) -> Filter:
    if query.key is not None and not _KEY.fullmatch(query.key):
        raise invalid_input("query/key", "must be bk_ and 16 lower-case hex digits: a key without its secret")
    if query.request_id is not None and not _REQUEST_ID.fullmatch(query.request_id):
        raise invalid_input("query/requestId", "must be 64 lower-case hex digits")
    start, end = read_span(query.from_, query.to)
    return Filter(
        start=start,
        end=end,
        code=query.code,
        key=query.key,
        request_id=None if query.request_id is None else bytes.fromhex(query.request_id),
        event_id=query.event_id,
        customer_id=_customer_id(request, query.customer_id),
    )


def _customer_id(request: ApiRequest, asked: str | None) -> str | None:
    """The customer to list: the one asked for, else the one that the key is bound to. Raises ProblemError (403)."""
    if asked is not None:
        request.caller.require_reach(asked)
    return asked or request.caller.customer_id


async def count_refusals(request: ApiRequest, query: RefusalCountsQuery) -> Response:
    """Count refused usage by API key and code, the most first."""
    customer_id = _customer_id(request, query.customer_id)
    span = read_span(query.from_, query.to)
    async with request.services.database.read_connection() as connection:
        counts = await refusals.count_refusals(connection, *span, customer_id)
    return JsonResponse(RefusalCounts(data=counts))


OPERATIONS = [
    Operation(
        method="GET",
        path="/refusals",
        handler=list_refusals,
        tag="usage",
        scope="usage:read",
        reach="handler",
        query=RefusalsQuery,
        answer=RefusalPage,
    ),
    Operation(
        method="GET",
        path="/refusals/counts",
        handler=count_refusals,
        tag="usage",
        scope="usage:read",
        reach="handler",
        query=RefusalCountsQuery,
        answer=RefusalCounts,
    ),
]
