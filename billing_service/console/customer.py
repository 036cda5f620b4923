"""A customer: what its usage adds up to in any span of time, and its records."""

import asyncio
import shlex
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, NamedTuple
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct
from starlette.responses import Response

from billing_client.contract.decimals import difference, total
from billing_client.contract.periods import period_labels, read_summary_query
from billing_client.contract.query_parameters import DIMENSION, SummaryQuery
from billing_client.contract.statements.structs import StatementSummary
from billing_client.contract.totals import summary_total
from billing_client.contract.wire import MAX_GROUPS, Customer, SummaryGroup, SummaryTotal, Timestamp, UsageRecord
from billing_service.console.charts import Bar, Chart, draw
from billing_service.console.formats import day_name, path, query
from billing_service.console.pages import View, page_operation, show, zone_of
from billing_service.console.spans import Span, month_of, read_span
from billing_service.console.statements import may_issue, recent_statements
from billing_service.database.pool import Connection
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import invalid_input
from billing_service.http.requests import ApiRequest
from billing_service.ledger.customers import require_customer
from billing_service.ledger.records import RecordFilter, list_records
from billing_service.ledger.summaries import SummaryPart, summarize_customer
from billing_service.rendering.formats import month_name, places

RECORDS = 50  # on a page
SHOWN_SERVICES = 7  # have a colour of their own
ALL_OTHERS, WITHOUT = "all others", "without it"
TABLE_ROWS = 200  # of the services with the highest amounts; what they leave is one row


class _Position(Struct, array_like=True, frozen=True):
    occurred_at: Timestamp
    request_id: Annotated[bytes, Meta(max_length=32)]


class Row(Struct, frozen=True):
    """A row of a table of totals. `address` leads to the page of what it adds up."""

    name: str
    total: SummaryTotal[str]
    address: str | None = None


class _Content(NamedTuple):
    """What a page shows, as it was read in one snapshot."""

    customer: Customer
    span: Span
    by: str | None
    service: str | None
    part: SummaryPart
    statements: list[tuple[StatementSummary[str], bool]]
    records: list[UsageRecord[str]]
    cursor: str | None


async def show_customer(request: ApiRequest, _: None) -> Response:
    """Show what a customer's usage adds up to, and the records behind it."""
    zone, asked, now = zone_of(request), request.query_params, request.services.clock.now()
    span = read_span(asked.get("from"), asked.get("to"), zone, now)
    by = (asked.get("by") or "").strip() or None
    service, dimensions = asked.get("service") or None, _dimensions(asked.get("where") or "")
    async with (
        request.services.database.read_connection(is_large=True) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        customer = await require_customer(connection, request.customer_id)
        part = await _summary(connection, customer.id, span, by)
        statements = await recent_statements(request, connection, zone)
        records, cursor = await _records(connection, request, customer.id, span, service, dimensions)
    content = _Content(customer, span, by, service, part, statements, records, cursor)
    # A year of many services is some ten thousand sums: to add them up and draw them takes long.
    return await asyncio.to_thread(_page, request, View(zone, now), content)


def _page(request: ApiRequest, view: View, content: _Content) -> Response:
    part, span, by = content.part, content.span, content.by
    services = _by_name(part, by)
    return show(
        request,
        "customer",
        view,
        customer=_as_it_may_be_seen(request, content.customer),
        span=span,
        by=by,
        chart=_chart(part, span, services, by, request.services.settings.currency),
        by_service=services,
        by_period=_by_period(part, span, content.customer.id),
        total=part.total,
        unit_places=places(row.total.units for row in services if row.total.units is not None),
        amount_places=places(row.total.amount for row in services),
        statements=content.statements,
        may_issue=may_issue(request),
        public_keys=request.services.signer.key_ids,
        service=content.service,
        where=request.query_params.get("where") or None,
        records=content.records,
        record_places=places(record.amount for record in content.records),
        next_cursor=content.cursor,
        is_first=not request.query_params.get("cursor"),
        curl=_curl(request, span, by),
    )


def _as_it_may_be_seen(request: ApiRequest, customer: Customer) -> Customer:
    """The customer; with its id for a name, if the caller may not read customers."""
    if "customers:read" in request.caller.scopes:
        return customer
    return Customer(id=customer.id, name=customer.id, created_at=customer.created_at, updated_at=customer.updated_at)


async def _summary(connection: Connection, customer_id: str, span: Span, by: str | None) -> SummaryPart:
    asked = SummaryQuery(from_=span.start, to=span.end, group_by=_group_by(span, by), timezone=span.zone)
    return await summarize_customer(connection, customer_id, read_summary_query(asked), MAX_GROUPS)


def _dimensions(where: str) -> dict[str, str]:
    """The dimension that records must have, from a text such as model=large. Raises ProblemError (400)."""
    name, equals, value = where.partition("=")
    if where and not (name and equals):
        raise invalid_input("query/where", "must be a dimension and its value, such as model=large")
    return {name: value} if where else {}


async def _records(
    connection: Connection,
    request: ApiRequest,
    customer_id: str,
    span: Span,
    service: str | None,
    dimensions: dict[str, str],
) -> tuple[list[UsageRecord[str]], str | None]:
    """A page of the records of the span, and the cursor of the next one."""
    scope = repr(("console", customer_id, service, dimensions, span))
    given = request.query_params.get("cursor")
    after = read_cursor(scope, given, _Position) if given else _Position(span.start, b"")
    position = (max(after.occurred_at, span.start), after.request_id)
    found = await list_records(
        connection, customer_id, position, RecordFilter(span.end, service, dimensions), RECORDS + 1
    )
    records = found[:RECORDS]
    if len(found) <= RECORDS:
        return records, None
    last = records[-1]
    return records, write_cursor(scope, _Position(last.occurred_at, bytes.fromhex(last.request_id)))


def _group_by(span: Span, by: str | None) -> str:
    """What is told apart: services or the values of a dimension, in the periods of a span."""
    if by is not None and "," in by:
        raise invalid_input("query/by", "must be the name of a dimension, without commas")
    return f"{'service' if by is None else DIMENSION + by},{span.unit}"


def _name_of(group: SummaryGroup[str], by: str | None) -> str:
    """The service of a group, or its value of a dimension."""
    if by is None:
        return group.service or ""
    value = (group.dimensions or {}).get(by)
    return WITHOUT if value is None else value


def _by_name(part: SummaryPart, by: str | None) -> list[Row]:
    """The total of each service or value, the highest first. All rows together are the total of the span."""
    groups: dict[str, list[SummaryGroup[str]]] = {}
    for group in part.groups:
        groups.setdefault(_name_of(group, by), []).append(group)
    rows = [Row(name, summary_total(found)) for name, found in groups.items()]
    rows.sort(key=lambda row: (-Decimal(row.total.amount), row.name))
    shown = rows[:TABLE_ROWS]
    rest = _less(part.total, [row.total for row in shown])
    return shown + [Row(ALL_OTHERS, rest)] * (rest.records > 0)


def _less(whole: SummaryTotal[str], parts: list[SummaryTotal[str]]) -> SummaryTotal[str]:
    """What is left of a total: of several services, so that its units make no sum."""
    return SummaryTotal(
        records=whole.records - sum(part.records for part in parts),
        units=None,
        amount=difference(whole.amount, total(part.amount for part in parts)),
    )


def _periods(part: SummaryPart, span: Span) -> dict[str, list[SummaryGroup[str]]]:
    """The groups of each period by its label, in order; in a long span, of the periods with usage."""
    zone, starts = ZoneInfo(span.zone), span.starts()
    periods: dict[str, list[SummaryGroup[str]]] = {
        period_labels(start, (span.unit,), zone)[span.unit]: [] for start in starts or []
    }
    for group in part.groups:
        periods.setdefault(getattr(group, span.unit), []).append(group)
    return periods


def _by_period(part: SummaryPart, span: Span, customer_id: str) -> list[Row]:
    """The total of each period with usage; days and months lead to their own page."""
    rows = []
    for label, groups in _periods(part, span).items():
        if groups:
            ends = None if span.unit == "hour" else _ends(label, span)
            address = ends and path("customers", customer_id) + query(from_=ends[0], to=ends[1], timezone=span.zone)
            rows.append(Row(_spoken(label, span), summary_total(groups), address))
    return rows


def _ends(label: str, span: Span) -> tuple[str, str]:
    """The first and last day of a day or month."""
    if span.unit == "day":
        return label, label
    month = month_of(date.fromisoformat(f"{label}-01"), span.zone)
    return month.first.isoformat(), month.last.isoformat()


def _spoken(label: str, span: Span) -> str:
    if span.unit == "month":
        return month_name(date.fromisoformat(f"{label}-01"))
    if span.unit == "day":
        return day_name(date.fromisoformat(label))
    hour = datetime.fromisoformat(label)
    return f"{day_name(hour.date())}, {hour:%H:%M}"


def _chart(part: SummaryPart, span: Span, services: list[Row], by: str | None, currency: str) -> Chart:
    named = [row.name for row in services[:SHOWN_SERVICES]]
    has_others = len(services) > len(named)
    bars = []
    for label, groups in _periods(part, span).items():
        parts: dict[str | None, str] = {}
        for group in groups:
            name = _name_of(group, by) if _name_of(group, by) in named else None
            parts[name] = total([parts.get(name, "0"), group.amount])
        bars.append(Bar(_short(label, span), _spoken(label, span), parts))
    title = f"Usage by {span.unit} and {by or 'service'}, {span.title}, in {currency}"
    return draw(title, bars, [*named, None] if has_others else named, currency)


def _short(label: str, span: Span) -> str:
    if span.unit == "month":
        return label
    return str(int(label[8:10])) if span.unit == "day" else label[11:13]


def _curl(request: ApiRequest, span: Span, by: str | None) -> str:
    """The call of the API that answers with the same numbers."""
    parameters = {
        "from": span.start.isoformat().replace("+00:00", "Z"),
        "to": span.end.isoformat().replace("+00:00", "Z"),
        "groupBy": _group_by(span, by),
        "timezone": span.zone,
    }
    address = f"{request.url.scheme}://{request.url.netloc}/customers/{quote(request.customer_id, safe='')}/summary"
    return f'curl -H "Authorization: Bearer $BILLING_API_KEY" {shlex.quote(f"{address}?{urlencode(parameters)}")}'


OPERATIONS = [
    page_operation("GET", "/console/customers/{customer_id}", show_customer, "usage:read"),
]
