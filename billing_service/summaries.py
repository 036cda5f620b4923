"""The endpoints of summaries: what is owed, by service, hour, day or month."""

from collections.abc import Sequence
from datetime import UTC, datetime, timezone
from typing import Annotated, Any, Literal

import asyncpg
import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

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
from billing_service.operations import Operation, PlainDecimal
from billing_service.pages import Cursor, read_cursor, write_cursor
from billing_service.problems import invalid_input
from billing_service.requests import BEGINNING, END, Timezone, check_timezone, instant_parameter
from billing_service.rollups import Grouping, summarize

_encode = msgspec.json.Encoder().encode
MAX_GROUPS = 50_000
Period = Literal["month", "day", "hour"]
_PERIODS: tuple[Period, ...] = ("hour", "day", "month")  # the finest first: its groups lie within the others'


class _Asked(Struct, frozen=True):
    """A summary's query, read."""

    start: datetime
    end: datetime
    from_: datetime | None
    to: datetime | None
    grouping: Grouping
    members: tuple[str, ...]


_MEMBER = "(service|hour|day|month)"
GroupBy = Annotated[
    str,
    Meta(
        description="What to tell apart: any of service, hour, day and month, with commas between.",
        extra_json_schema={"pattern": f"^({_MEMBER}(,{_MEMBER})*)?$"},
    ),
]


class SummaryQuery(Struct, rename={"from_": "from", "group_by": "groupBy"}):
    """`from_` is in, `to` is out."""

    from_: Timestamp | None = None
    to: Timestamp | None = None
    group_by: GroupBy = ""
    timezone: Timezone = "UTC"


class SummariesQuery(SummaryQuery, rename={"from_": "from", "group_by": "groupBy"}):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = None


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def summarize_customer(request: Request, query: SummaryQuery) -> Response:
    """Sum up a customer's usage, by service, hour, day or month."""
    customer_id: str = request.path_params["customer_id"]
    asked = _asked(query)
    rows = await _rows(request, [customer_id], asked)
    if not rows:
        database: Database = request.app.state.database
        async with database.connection() as connection:
            await require_customer(connection, customer_id)
    groups = [_group(row, asked) for row in rows]
    summary = Summary(**_frame(request, asked), groups=_shown(groups, asked), total=_total(groups))
    return Response(_encode(summary), media_type="application/json")


async def summarize_customers(request: Request, query: SummariesQuery) -> Response:
    """Sum up the usage of each customer, by customer id."""
    asked = _asked(query)
    scope = f"summary {asked}"
    after = read_cursor(scope, query.cursor, _Position).id if query.cursor else ""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        customers = [row["customer_id"] for row in await list_customer_rows(connection, after, query.limit + 1)]
    page = customers[: query.limit]
    groups: dict[str, list[SummaryGroup[str]]] = {customer_id: [] for customer_id in page}
    for row in await _rows(request, page, asked):
        groups[row["customer_id"]].append(_group(row, asked))
    data = [CustomerSummary(customer_id=id_, groups=_shown(g, asked), total=_total(g)) for id_, g in groups.items()]
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


async def _rows(request: Request, customer_ids: Sequence[str], asked: _Asked) -> list[asyncpg.Record]:
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


def _group(row: asyncpg.Record, asked: _Asked) -> SummaryGroup[str]:
    labels: dict[str, Any] = {}
    local: datetime | None = row["local_period"]
    if local is not None:
        offset = local.replace(tzinfo=UTC) - row["period"]
        whole = {"hour": local.replace(tzinfo=timezone(offset)).isoformat(), "day": local.date().isoformat()}
        whole["month"] = whole["day"][:7]
        labels = {member: label for member, label in whole.items() if member in asked.members}
    return SummaryGroup(
        service=row["service"], **labels, records=row["records"], units=row["units"], amount=row["amount"]
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
