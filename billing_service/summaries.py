"""The endpoints of summaries: what is owed, by service, hour, day or month."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.periods import Asked, period_labels, read_summary_query
from billing_client.contract.queries import SummariesQuery, SummaryQuery
from billing_client.contract.totals import summary_total
from billing_client.wire import CustomerSummary, Id, Summary, SummaryGroup, SummaryPage
from billing_service.callers import caller_of
from billing_service.customers import list_customer_rows, require_customer
from billing_service.database import Database
from billing_service.operations import Operation, PlainDecimal
from billing_service.pages import read_cursor, write_cursor
from billing_service.problems import invalid_input
from billing_service.rollups import summarize

_encode = msgspec.json.Encoder().encode
MAX_GROUPS = 50_000


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def summarize_customer(request: Request, query: SummaryQuery) -> Response:
    """Sum up a customer's usage, by service, hour, day or month."""
    customer_id: str = request.path_params["customer_id"]
    asked = read_summary_query(query)
    rows = await _rows(request, [customer_id], asked)
    if not rows:
        database: Database = request.app.state.database
        async with database.connection() as connection:
            await require_customer(connection, customer_id)
    groups = [_group(row, asked) for row in rows]
    summary = Summary(**_frame(request, asked), groups=_shown(groups, asked), total=summary_total(groups))
    return Response(_encode(summary), media_type="application/json")


async def summarize_customers(request: Request, query: SummariesQuery) -> Response:
    """Sum up the usage of each customer, by customer id."""
    asked = read_summary_query(query)
    scope = f"summary {asked}"
    after = read_cursor(scope, query.cursor, _Position).id if query.cursor else ""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        rows = await list_customer_rows(connection, caller_of(request), after, query.limit + 1)
    customers = [row["customer_id"] for row in rows]
    page = customers[: query.limit]
    groups: dict[str, list[SummaryGroup[str]]] = {customer_id: [] for customer_id in page}
    for row in await _rows(request, page, asked):
        groups[row["customer_id"]].append(_group(row, asked))
    data = [
        CustomerSummary(customer_id=id_, groups=_shown(g, asked), total=summary_total(g)) for id_, g in groups.items()
    ]
    cursor = write_cursor(scope, _Position(page[-1])) if len(customers) > query.limit else None
    body = SummaryPage(**_frame(request, asked), data=data, next_cursor=cursor)
    return Response(_encode(body), media_type="application/json")


async def _rows(request: Request, customer_ids: Sequence[str], asked: Asked) -> list[asyncpg.Record]:
    database: Database = request.app.state.database
    async with database.connection() as connection:
        try:
            rows = await summarize(connection, customer_ids, asked.start, asked.end, asked.grouping, MAX_GROUPS + 1)
        except asyncpg.InvalidParameterValueError as error:  # PostgreSQL has a time zone database of its own
            raise invalid_input("query/timezone", "must be a name in the IANA time zone database") from error
    if len(rows) > MAX_GROUPS:
        raise invalid_input(
            "query/groupBy", f"makes more than {MAX_GROUPS} groups; ask for less time or fewer customers"
        )
    return rows


def _group(row: asyncpg.Record, asked: Asked) -> SummaryGroup[str]:
    local: datetime | None = row["local_period"]
    labels = {} if local is None else period_labels(row["period"], local, asked.members)
    return SummaryGroup(
        service=row["service"], **labels, records=row["records"], units=row["units"], amount=row["amount"]
    )


def _shown(groups: list[SummaryGroup[str]], asked: Asked) -> list[SummaryGroup[str]]:
    return groups if asked.members else []


def _frame(request: Request, asked: Asked) -> dict[str, Any]:
    return {
        "from_": asked.from_,
        "to": asked.to,
        "timezone": asked.grouping.timezone,
        "currency": request.app.state.settings.currency,
    }


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id:id}/summary",
        handler=summarize_customer,
        tag="owed",
        scope="usage:read",
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
        query=SummariesQuery,
        answer=SummaryPage[PlainDecimal],
    ),
]
