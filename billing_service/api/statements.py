"""The statements of months as they stand: of one customer as JSON, CSV, HTML or PDF, of all customers as a list."""

import asyncio
from datetime import timedelta

from starlette.responses import Response

from billing_client.contract.periods import Month, read_month, read_statement_query
from billing_client.contract.query_parameters import STATEMENT_TYPES, StatementQuery, StatementsQuery
from billing_client.contract.statements.structs import Statement, StatementProgress, StatementSummaries
from billing_client.contract.wire import Id
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.negotiation import choose_format
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger.statements.issued import decode_statement
from billing_service.ledger.statements.overview import list_statements
from billing_service.ledger.statements.pieces import NotPreparedError
from billing_service.ledger.statements.reading import read_statement
from billing_service.rendering.pdf import render_pdf
from billing_service.rendering.statements import STYLE_SOURCE, render_csv, render_html

_POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
RETRY_AFTER = {"Retry-After": "1"}
PAGE_SECONDS = 2.0


async def get_statement(request: ApiRequest, query: StatementQuery) -> Response:
    """Read a customer's monthly statement, with `since` also the changes since an earlier one. A month that was issued,
    and has not changed since, is answered with the statement as it was issued. A month of so many records that they
    cannot be read at once is prepared first: the answer is 202 until it is."""
    month = read_statement_query(request.customer_id, query)
    format_ = choose_format(request, query.format, STATEMENT_TYPES)
    since = None if query.since is None else bytes.fromhex(query.since)
    services = request.services
    try:
        near = services.group_commit.near(month.customer_id)
        async with services.database.read_connection(is_large=True, near=near) as connection:
            currency, now = services.settings.currency, services.clock.now()
            read = await read_statement(connection, month, currency, since, now, services.pace.statement_records)
    except NotPreparedError as error:
        services.pieces.want(*month.range)
        return not_prepared(error.records, error.prepared)
    for part in read.lacking:
        services.pieces.want(request.customer_id, *part)
    return await statement_response(request, format_, read.document)


def not_prepared(records: int, prepared: int) -> Response:
    """The response while pieces are prepared."""
    return JsonResponse(StatementProgress(records=records, prepared=prepared), 202, RETRY_AFTER)


async def statement_response(request: ApiRequest, format_: str, document: bytes, status: int = 200) -> Response:
    """A statement in a format; `document` is it as JSON."""
    if format_ == "json":
        return Response(document, status, headers={"Vary": "Accept"}, media_type=STATEMENT_TYPES[format_])
    statement = decode_statement(document)
    if format_ == "pdf":
        body = await render_pdf(statement, request.services.pace.pdf_seconds)
    else:
        body = await asyncio.to_thread(_FORMATS[format_], statement)
    headers = {"Vary": "Accept"} | _headers(format_, f"statement-{statement.month}")
    return Response(body, status, headers=headers, media_type=STATEMENT_TYPES[format_])


_FORMATS = {"csv": render_csv, "html": render_html}


def _headers(format_: str, name: str) -> dict[str, str]:
    headers = {}
    if format_ == "csv":
        headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    if format_ == "pdf":
        headers["Content-Disposition"] = f'inline; filename="{name}.pdf"'
    if format_ == "html":
        headers |= {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return headers


async def list_all_statements(request: ApiRequest, query: StatementsQuery) -> Response:
    """List the customers with usage in a month, by customer id: the total of each, and whether it is issued."""
    month = read_month("", query.month, query.timezone, "query/")
    scope = f"statements {query.month} {query.timezone}"
    after = read_cursor(scope, query.cursor, Id) if query.cursor else ""
    services = request.services
    async with services.database.read_connection(is_large=True) as connection:
        data, end = await list_statements(
            connection,
            month,
            services.settings.currency,
            after,
            query.limit,
            only=request.caller.customer_id,
            seconds=min(PAGE_SECONDS, services.settings.read_timeout / 2),
        )
    return JsonResponse(StatementSummaries(data=data, next_cursor=write_cursor(scope, end) if end else None))


def is_over(month: Month, request: ApiRequest) -> bool:
    """Whether a month is over by the database's clock."""
    return month.end - request.services.clock.now() <= timedelta(0)


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id}/statement",
        handler=get_statement,
        tag="billing",
        scope="usage:read",
        reach="customer",
        query=StatementQuery,
        answer=Statement[PlainDecimal],
        accepted=StatementProgress,
        media_types=tuple(STATEMENT_TYPES.values()),
        problems=("customer_not_found", "statement_not_found", "not_acceptable"),
    ),
    Operation(
        method="GET",
        path="/statements",
        handler=list_all_statements,
        tag="billing",
        scope="usage:read",
        reach="handler",
        query=StatementsQuery,
        answer=StatementSummaries[PlainDecimal],
    ),
]
