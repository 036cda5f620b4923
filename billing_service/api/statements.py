"""The statement endpoint: a customer's month as JSON, CSV or HTML.

A statement's digest is the SHA-256 of the request ids (32 bytes each) of its records without the voided ones, joined in
ascending byte order. So either side can prove which records it contained. With the client's `usage()`::

    sha256(b"".join(sorted([bytes.fromhex(r.request_id) async for r in client.usage(
        customer_id=customer_id, start=start, end=end) if r.voided_at is None]))).hexdigest()
"""

import asyncio

import msgspec
from starlette.responses import Response

from billing_client.contract.periods import read_statement_query
from billing_client.contract.query_parameters import STATEMENT_TYPES, StatementQuery
from billing_client.contract.statements.structs import Statement
from billing_service.http.negotiation import choose_format
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import ApiRequest
from billing_service.ledger.statements import issue_statement
from billing_service.rendering.statements import STYLE_SOURCE, render_csv, render_html

_encode = msgspec.json.Encoder().encode
_POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def get_statement(request: ApiRequest, query: StatementQuery) -> Response:
    """Read a customer's monthly statement, with `since` also the changes since an earlier one."""
    month = read_statement_query(request.customer_id, query)
    format_ = choose_format(request, query.format, STATEMENT_TYPES)
    since = None if query.since is None else bytes.fromhex(query.since)
    async with request.services.database.read_connection(is_large=True) as connection:
        statement = await issue_statement(
            connection, month, request.services.settings.currency, since, request.services.clock.now()
        )
    body = await asyncio.to_thread(_FORMATS[format_], statement)
    return Response(body, headers=_headers(format_, query.month), media_type=STATEMENT_TYPES[format_])


_FORMATS = {"json": _encode, "csv": render_csv, "html": render_html}


def _headers(format_: str, month: str) -> dict[str, str]:
    headers = {"Vary": "Accept"}
    if format_ == "csv":
        headers["Content-Disposition"] = f'attachment; filename="statement-{month}.csv"'
    if format_ == "html":
        headers |= {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return headers


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id}/statement",
        handler=get_statement,
        tag="owed",
        scope="usage:read",
        reach="customer",
        query=StatementQuery,
        answer=Statement[PlainDecimal],
        media_types=tuple(STATEMENT_TYPES.values()),
        problems=("customer_not_found", "statement_not_found", "not_acceptable"),
    )
]
