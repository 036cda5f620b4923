"""The endpoints of summaries: what is owed, by service, hour, day or month."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from billing_client.wire import (
    MAX_PAGE,
    CustomerSummary,
    Id,
    Summary,
    SummaryGroup,
    SummaryPage,
    SummaryTotal,
    Timestamp,
)
from billing_service.amounts import total
from billing_service.customers import list_customer_rows, require_customer
from billing_service.database import Database
from billing_service.pages import read_cursor, write_cursor
from billing_service.periods import Period
from billing_service.problems import invalid_input
from billing_service.requests import BEGINNING, END, check_timezone, instant_parameter, read_query
from billing_service.rollups import Group, Grouping, TooManyGroupsError, summarize

_encode = msgspec.json.Encoder().encode
MAX_GROUPS = 50_000
_PERIODS: tuple[Period, ...] = ("hour", "day", "month")  # the finest first: its groups lie within the others'


class _Asked(Struct, frozen=True):
    """A summary's query, read."""

    start: datetime
    end: datetime
    from_: datetime | None
    to: datetime | None
    grouping: Grouping
    members: tuple[str, ...]


class SummaryQuery(Struct, rename={"from_": "from", "group_by": "groupBy"}):
    """`from_` is in, `to` is out; `group_by` is any of service, hour, day, month, with commas between."""

    from_: Timestamp | None = None
    to: Timestamp | None = None
    group_by: str = ""
    timezone: str = "UTC"


class SummariesQuery(SummaryQuery, rename={"from_": "from", "group_by": "groupBy"}):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: str | None = None


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def summarize_customer(request: Request) -> Response:
    """`GET /customers/{id}/summary`"""
    customer_id: str = request.path_params["customer_id"]
    asked = _asked(read_query(request, SummaryQuery))
    groups = (await _groups(request, [customer_id], asked))[customer_id]
    if not groups:
        database: Database = request.app.state.database
        async with database.connection() as connection:
            await require_customer(connection, customer_id)
    summary = Summary(**_frame(request, asked), groups=_shown(groups, asked), total=_total(groups))
    return Response(_encode(summary), media_type="application/json")


async def summarize_customers(request: Request) -> Response:
    """`GET /summary`"""
    query = read_query(request, SummariesQuery)
    asked = _asked(query)
    scope = f"summary {asked}"
    after = read_cursor(scope, query.cursor, _Position).id if query.cursor else ""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        customers = [row["customer_id"] for row in await list_customer_rows(connection, after, query.limit + 1)]
    page = customers[: query.limit]
    data = []
    for customer_id, groups in (await _groups(request, page, asked)).items():
        data.append(CustomerSummary(customer_id=customer_id, groups=_shown(groups, asked), total=_total(groups)))
    cursor = write_cursor(scope, _Position(page[-1])) if len(customers) > query.limit else None
    body = SummaryPage(**_frame(request, asked), data=data, next_cursor=cursor)
    return Response(_encode(body), media_type="application/json")


def _asked(query: SummaryQuery) -> _Asked:
    members = tuple(query.group_by.split(",")) if query.group_by else ()
    if unknown := [member for member in members if member not in ("service", *_PERIODS)]:
        raise invalid_input("query/groupBy", f"holds {unknown[0]!r}, but takes service, hour, day and month")
    period = next((period for period in _PERIODS if period in members), None)
    start, end = instant_parameter("from", query.from_, BEGINNING), instant_parameter("to", query.to, END)
    if start > end:
        raise invalid_input("query/to", "must not be before from")
    grouping = Grouping(service="service" in members, period=period, timezone=check_timezone(query.timezone))
    return _Asked(start, end, query.from_ and start, query.to and end, grouping, members)


async def _groups(request: Request, customer_ids: Sequence[str], asked: _Asked) -> dict[str, list[SummaryGroup[str]]]:
    """The groups of each of these customers."""
    database: Database = request.app.state.database
    groups: dict[str, list[SummaryGroup[str]]] = {}
    left = MAX_GROUPS
    try:
        async with database.connection() as connection:
            for id_ in customer_ids:
                found = await summarize(connection, id_, asked.start, asked.end, asked.grouping, left)
                groups[id_] = [_group(group, asked) for group in found]
                left -= len(found)
    except TooManyGroupsError as error:
        raise invalid_input(
            "query/groupBy", f"makes more than {MAX_GROUPS} groups; ask for less time or fewer customers"
        ) from error
    return groups


def _group(group: Group, asked: _Asked) -> SummaryGroup[str]:
    labels = {} if group.period is None else {"hour": group.period, "day": group.period[:10], "month": group.period[:7]}
    return SummaryGroup(
        service=group.service,
        **{member: label for member, label in labels.items() if member in asked.members},
        records=group.records,
        units=group.units,
        amount=group.amount,
    )


def _shown(groups: list[SummaryGroup[str]], asked: _Asked) -> list[SummaryGroup[str]]:
    return groups if asked.members else []


def _total(groups: list[SummaryGroup[str]]) -> SummaryTotal[str]:
    return SummaryTotal(
        records=sum(group.records for group in groups),
        units=total(group.units for group in groups),
        amount=total(group.amount for group in groups),
    )


def _frame(request: Request, asked: _Asked) -> dict[str, Any]:
    return {
        "from_": asked.from_,
        "to": asked.to,
        "timezone": asked.grouping.timezone,
        "currency": request.app.state.settings.currency,
    }


ROUTES = [
    Route("/customers/{customer_id:id}/summary", summarize_customer, methods=["GET"]),
    Route("/summary", summarize_customers, methods=["GET"]),
]
