"""The endpoints of summaries: what is owed, by service, hour, day or month."""

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.periods import Asked, period_labels, read_summary_query
from billing_client.contract.query_parameters import SummariesQuery, SummaryQuery
from billing_client.contract.totals import summary_total
from billing_client.contract.wire import CustomerSummary, Id, Summary, SummaryGroup, SummaryPage
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import invalid_input
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger.customers import list_customers, require_customer
from billing_service.ledger.rollups import Group, TooManyGroupsError, summarize

MAX_GROUPS = 50_000


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def summarize_customer(request: ApiRequest, query: SummaryQuery) -> Response:
    """Sum up a customer's usage, by service, hour, day or month."""
    customer_id = request.customer_id
    asked = read_summary_query(query)
    groups = (await _groups(request, [customer_id], asked))[customer_id]
    if not groups:
        async with request.services.database.read_connection() as connection:
            await require_customer(connection, customer_id)
    summary = Summary(**_frame(request, asked), groups=_shown(groups, asked), total=summary_total(groups))
    return JsonResponse(summary)


async def summarize_customers(request: ApiRequest, query: SummariesQuery) -> Response:
    """Sum up the usage of each customer, by customer id."""
    asked = read_summary_query(query)
    scope = f"summary {asked}"
    after = read_cursor(scope, query.cursor, _Position).id if query.cursor else ""
    async with request.services.database.read_connection() as connection:
        found = await list_customers(connection, after, query.limit + 1, request.caller.customer_id)
    customers = [customer.id for customer in found]
    page = customers[: query.limit]
    data = [
        CustomerSummary(customer_id=id_, groups=_shown(groups, asked), total=summary_total(groups))
        for id_, groups in (await _groups(request, page, asked)).items()
    ]
    cursor = write_cursor(scope, _Position(page[-1])) if len(customers) > query.limit else None
    body = SummaryPage(**_frame(request, asked), data=data, next_cursor=cursor)
    return JsonResponse(body)


async def _groups(request: ApiRequest, customer_ids: Sequence[str], asked: Asked) -> dict[str, list[SummaryGroup[str]]]:
    """The groups of each of these customers."""
    groups: dict[str, list[SummaryGroup[str]]] = {}
    left = MAX_GROUPS
    try:
        async with request.services.database.read_connection(is_large=True) as connection:
            for id_ in customer_ids:
                found = await summarize(connection, id_, asked.start, asked.end, asked.grouping, left)
                groups[id_] = [_group(group, asked) for group in found]
                left -= len(found)
    except TooManyGroupsError as error:
        raise invalid_input(
            "query/groupBy", f"makes more than {MAX_GROUPS} groups; ask for less time or fewer customers"
        ) from error
    return groups


def _group(group: Group, asked: Asked) -> SummaryGroup[str]:
    labels = period_labels(group.period, asked.members, ZoneInfo(asked.grouping.timezone))
    return SummaryGroup(service=group.service, **labels, records=group.records, units=group.units, amount=group.amount)


def _shown(groups: list[SummaryGroup[str]], asked: Asked) -> list[SummaryGroup[str]]:
    return groups if asked.members else []


def _frame(request: ApiRequest, asked: Asked) -> dict[str, Any]:
    return {
        "from_": asked.from_,
        "to": asked.to,
        "timezone": asked.grouping.timezone,
        "currency": request.services.settings.currency,
    }


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id}/summary",
        handler=summarize_customer,
        tag="owed",
        scope="usage:read",
        reach="customer",
        query=SummaryQuery,
        answer=Summary[PlainDecimal],
        problems=("customer_not_found",),
    ),
    Operation(
        method="GET",
        path="/summary",
        handler=summarize_customers,
        tag="owed",
        scope="usage:read",
        reach="handler",
        query=SummariesQuery,
        answer=SummaryPage[PlainDecimal],
    ),
]
