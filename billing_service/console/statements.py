"""Statements: which are to be issued, issuing them, and what to download."""

import asyncio
from datetime import timedelta
from zoneinfo import ZoneInfo

import msgspec
from starlette.responses import Response

from billing_client.contract.periods import Month, day_at, read_month
from billing_client.contract.query_parameters import IssuedStatementQuery, ProofQuery, StatementQuery
from billing_client.contract.statements.structs import StatementSummary
from billing_service.api.issued_statements import get_issued_statement
from billing_service.api.proofs import get_proof
from billing_service.api.statements import get_statement, is_over
from billing_service.console.formats import path, query
from billing_service.console.pages import View, page_operation, read_form, redirect, show, zone_of
from billing_service.database.pool import Connection
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.requests import ApiRequest
from billing_service.ledger.statements.issuing import IssueOrder, issue
from billing_service.ledger.statements.issuing_all import issue_all
from billing_service.ledger.statements.overview import list_statements

PAGE = 50
PAGE_SECONDS, ISSUE_SECONDS = 2.0, 8.0  # a call works for so long; the page of all leads on to the next
SHOWN_MONTHS = 6
SHOWN_FAILURES = 10


def month_before(request: ApiRequest, zone: str) -> str:
    """The month that was over last, such as 2026-10, in a time zone."""
    first = day_at(request.services.clock.now(), ZoneInfo(zone)).replace(day=1)
    return (first - timedelta(days=1)).isoformat()[:7]


async def list_month(request: ApiRequest, _: None) -> Response:
    """List the customers with usage in a month, and whether their statements are issued."""
    zone, asked = zone_of(request), request.query_params
    name = asked.get("month") or month_before(request, zone)
    month = read_month("", name, zone, "query/")
    scope = f"console statements {name} {zone}"
    after = read_cursor(scope, asked["cursor"], str) if asked.get("cursor") else ""
    async with request.services.database.read_connection(is_large=True) as connection:
        found, end = await list_statements(
            connection,
            month,
            request.services.settings.currency,
            after,
            PAGE,
            only=request.caller.customer_id,
            seconds=PAGE_SECONDS,
        )
    return show(
        request,
        "statements",
        View(zone, request.services.clock.now()),
        rows=found,
        name=name,
        month=month,
        is_over=is_over(month, request),
        may_issue=may_issue(request),
        public_keys=request.services.signer.key_ids,
        going_on=asked.get("going_on"),
        failed=asked.get("failed"),
        next_cursor=write_cursor(scope, end) if end else None,
        is_first=not after,
    )


def may_issue(request: ApiRequest) -> bool:
    """Whether the caller may issue statements."""
    return "statements:issue" in request.caller.scopes


async def recent_statements(
    request: ApiRequest, connection: Connection, zone: str
) -> list[tuple[StatementSummary[str], bool]]:
    """The last months of the customer in the path, and whether each is over; those without usage are left out.

    Raises what asyncpg raises.
    """
    first = day_at(request.services.clock.now(), ZoneInfo(zone)).replace(day=1)
    rows = []
    for _ in range(SHOWN_MONTHS):
        month = read_month("", first.isoformat()[:7], zone, "query/")
        found, _end = await list_statements(
            connection,
            month,
            request.services.settings.currency,
            "",
            1,
            only=request.customer_id,
            seconds=PAGE_SECONDS,
        )
        rows += [(each, is_over(month, request)) for each in found]
        first = (first - timedelta(days=1)).replace(day=1)
    return rows


def _order(request: ApiRequest, month: Month) -> IssueOrder:
    services = request.services
    return IssueOrder(
        month=month,
        currency=services.settings.currency,
        issued_by=request.caller.key_name,
        now=services.clock.now(),
        sign=services.signer.sign,
    )


async def issue_one(request: ApiRequest, _: None) -> Response:
    """Issue the statement of a customer's month."""
    form = await read_form(request)
    zone = form.get("timezone", "UTC")
    month = read_month(request.customer_id, form.get("month", ""), zone, "/")
    until = asyncio.get_running_loop().time() + ISSUE_SECONDS
    result = await issue(request.services.database, _order(request, month), until)
    if result.is_new:
        request.services.changes.note("statements", (request.customer_id,))
    shown = query(timezone=zone if zone != "UTC" else None)
    return redirect(request, f"{path('customers', request.customer_id)}{shown}#statements")


async def issue_month(request: ApiRequest, _: None) -> Response:
    """Issue the statements of all customers for a month, a part at a time: the page leads on to the next."""
    request.caller.require_reach(None)
    form = await read_form(request)
    zone, name = form.get("timezone", "UTC"), form.get("month", "")
    month = read_month("", name, zone, "/")
    until = asyncio.get_running_loop().time() + ISSUE_SECONDS
    done = await issue_all(request.services.database, _order(request, month), form.get("after", ""), until)
    if done.issued:
        request.services.changes.note("statements", (each.customer_id for each in done.issued))
    failed = ", ".join(each.customer_id for each in done.failed[:SHOWN_FAILURES])
    shown = query(month=name, timezone=zone if zone != "UTC" else None, going_on=done.after, failed=failed)
    return redirect(request, path("statements") + shown)


async def download(request: ApiRequest, asked: StatementQuery) -> Response:
    """Read a customer's month as it stands, in any format."""
    return _or_wait(request, await get_statement(request, asked))


async def download_issued(request: ApiRequest, asked: IssuedStatementQuery) -> Response:
    """Read a statement that was issued, in any format."""
    return await get_issued_statement(request, asked)


async def download_proof(request: ApiRequest, asked: ProofQuery) -> Response:
    """Read the proof that a record counts in a statement."""
    return _or_wait(request, await get_proof(request, asked))


def _or_wait(request: ApiRequest, response: Response) -> Response:
    """The response; a page to wait on, if a month of very many records is being prepared."""
    if response.status_code != 202:
        return response
    progress = msgspec.json.decode(bytes(response.body))
    return show(request, "preparing", None, 202, progress=progress)


OPERATIONS = [
    page_operation("GET", path("statements"), list_month, "usage:read"),
    page_operation("POST", path("statements"), issue_month, "statements:issue"),
    page_operation("POST", "/console/customers/{customer_id}/statements", issue_one, "statements:issue"),
    page_operation("GET", "/console/customers/{customer_id}/statement", download, "usage:read", query=StatementQuery),
    page_operation(
        "GET",
        "/console/customers/{customer_id}/statements/{statement}",
        download_issued,
        "usage:read",
        query=IssuedStatementQuery,
    ),
    page_operation(
        "GET",
        "/console/customers/{customer_id}/records/{request_id}/proof",
        download_proof,
        "usage:read",
        query=ProofQuery,
    ),
]
