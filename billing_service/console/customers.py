"""The customers: found by id or name, each with its month so far."""

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.wire import Id
from billing_service.console.charts import Bar, Chart, draw
from billing_service.console.formats import path
from billing_service.console.pages import View, page_operation, show, zone_of
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import invalid_input
from billing_service.http.requests import ApiRequest
from billing_service.ledger.overviews.calendars import Calendar, calendar_of
from billing_service.ledger.overviews.customer_lines import CustomerLine, customer_lines, search_customers
from billing_service.rendering.formats import places

PAGE = 25
MAX_SEARCH = 200  # characters, as many as a name has


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def list_customers(request: ApiRequest, _: None) -> Response:
    """List customers by id, those whose id or name holds a text."""
    zone, text = zone_of(request), (request.query_params.get("q") or "").strip()
    if len(text) > MAX_SEARCH:
        raise invalid_input("query/q", f"must have at most {MAX_SEARCH} characters")
    caller = request.caller
    scope = f"console {text}"
    cursor = request.query_params.get("cursor")
    after = read_cursor(scope, cursor, _Position).id if cursor else ""
    calendar = calendar_of(request.services.clock.now(), zone)
    async with (
        request.services.database.read_connection(is_large=True) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        found = await search_customers(connection, text, after, PAGE + 1, caller.customer_id)
        lines = await customer_lines(connection, found[:PAGE], calendar)
    currency = request.services.settings.currency
    return show(
        request,
        "customers",
        View(zone, calendar.now),
        calendar=calendar,
        lines=[(line, _chart(line, calendar, currency)) for line in lines],
        most_places=places(amount for line in lines for amount in (line.amount, line.before)),
        has_totals="usage:read" in caller.scopes,
        text=text,
        next_cursor=write_cursor(scope, _Position(lines[-1].id)) if len(found) > PAGE else None,
        is_first=not cursor,
    )


def _chart(line: CustomerLine, calendar: Calendar, currency: str) -> Chart:
    days = zip(calendar.days[calendar.first :], line.days[calendar.first :], strict=True)
    bars = [Bar(label="", name=str(day.day), parts={"": amount}) for day, amount in days]
    return draw(f"Billed by day this month: {line.amount} {currency}", bars, [""], currency)


OPERATIONS = [
    page_operation("GET", path("customers"), list_customers, "customers:read"),
]
