"""The endpoints of summaries: what is owed, by service, hour, day or month."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response

from billing_client.contract.periods import SummaryRequest, read_summary_query
from billing_client.contract.query_parameters import SummariesQuery, SummaryQuery
from billing_client.contract.wire import Summary, SummaryPage
from billing_service.database.pool import Connection
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import ProblemError, problem
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import LAG_HEADER, ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger import summaries
from billing_service.ledger.customers import require_customer
from billing_service.ledger.dimension_groups import reads_records
from billing_service.ledger.rollups import GroupKey


async def summarize_customer(request: ApiRequest, query: SummaryQuery) -> Response:
    """Sum up a customer's usage, by service, hour, day or month and by up to two dimensions. The total is that of all
    pages of groups."""
    customer_id = request.customer_id
    asked = read_summary_query(query)
    scope = f"summary {customer_id} {asked}"
    after = read_cursor(scope, query.cursor, GroupKey) if query.cursor else None
    near = request.services.group_commit.near(customer_id)
    async with request.services.database.read_connection(is_large=True, near=near) as connection:
        async with _in_time(request, connection, asked):
            part = await summaries.summarize_customer(connection, customer_id, asked, query.limit, after)
        if not part.total.records:
            await require_customer(connection, customer_id)
    cursor = write_cursor(scope, part.next) if part.next is not None else None
    return JsonResponse(Summary(**_frame(request, asked), groups=part.groups, total=part.total, next_cursor=cursor))


async def summarize_customers(request: ApiRequest, query: SummariesQuery) -> Response:
    """Sum up the usage of each customer, by customer id. A page has as many customers as fit. One with more groups than
    fit on a page is on several pages, each time with the total of all its groups."""
    asked = read_summary_query(query)
    scope = f"summary {asked}"
    after = read_cursor(scope, query.cursor, summaries.Position) if query.cursor else None
    async with request.services.read_database.read_connection(is_large=True) as connection:
        lag = await request.replica_lag(connection)
        async with _in_time(request, connection, asked):
            data, end = await summaries.summarize_customers(
                connection,
                asked,
                query.limit,
                after,
                only=request.caller.customer_id,
                seconds=min(summaries.PAGE_SECONDS, request.services.settings.read_timeout / 2),
            )
    cursor = write_cursor(scope, end) if end is not None else None
    return JsonResponse(SummaryPage(**_frame(request, asked), data=data, next_cursor=cursor), headers=lag)


@asynccontextmanager
async def _in_time(request: ApiRequest, connection: Connection, asked: SummaryRequest) -> AsyncIterator[None]:
    """Raise ProblemError (422) if the block adds up records for longer than it may.

    Whether it does is asked afterwards: a summary by a prepared dimension need not wait for that.
    """
    if not (asked.grouping.dimensions or asked.filters):
        yield
        return
    try:
        async with asyncio.timeout(request.services.settings.read_timeout * 0.8):
            yield
    except TimeoutError as error:
        if not await reads_records(connection, asked):
            raise
        names = sorted({*asked.grouping.dimensions, *dict(asked.filters)})
        shorter = "Ask for a shorter time with from and to"
        if len(names) == 1:
            advice = f"{shorter}, or let the operator prepare the dimension: billing-service dimensions add {names[0]}"
        else:
            advice = f"{shorter}, or name one dimension that is prepared: billing-service dimensions list"
        detail = f"There is too much usage to add it up by {' and '.join(names)} from the records. {advice}."
        raise ProblemError(problem("summary_too_large", detail)) from error


def _frame(request: ApiRequest, asked: SummaryRequest) -> dict[str, Any]:
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
        tag="billing",
        scope="usage:read",
        reach="customer",
        query=SummaryQuery,
        answer=Summary[PlainDecimal],
        problems=("customer_not_found", "summary_too_large"),
    ),
    Operation(
        method="GET",
        path="/summary",
        handler=summarize_customers,
        tag="billing",
        scope="usage:read",
        reach="handler",
        query=SummariesQuery,
        headers=(LAG_HEADER,),
        answer=SummaryPage[PlainDecimal],
        problems=("summary_too_large",),
    ),
]
