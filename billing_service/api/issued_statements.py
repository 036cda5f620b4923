"""Statements that are issued: numbered for each customer, signed, and read again byte for byte."""

import asyncio
import re

from starlette.responses import Response

from billing_client.contract.object_decoding import ObjectDecoder
from billing_client.contract.periods import Month, read_month
from billing_client.contract.query_parameters import (
    STATEMENT_TYPES,
    IssuedStatementQuery,
    IssuedStatementsQuery,
    NoQuery,
)
from billing_client.contract.statements.structs import (
    IssuedStatements,
    IssueProgress,
    NewStatement,
    NewStatements,
    Statement,
    StatementProgress,
)
from billing_client.contract.wire import Id
from billing_service.api.statements import not_prepared, statement_response
from billing_service.http.cursors import Number, read_cursor, write_cursor
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.negotiation import choose_format
from billing_service.http.operations import Operation, PlainDecimal
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger.customers import require_customer
from billing_service.ledger.statements.issued import Issued, find_issued, list_issued
from billing_service.ledger.statements.issuing import IssueOrder, issue
from billing_service.ledger.statements.issuing_all import issue_all

_NUMBER, _DIGEST = re.compile(r"[1-9][0-9]{0,17}"), re.compile(r"[0-9a-f]{64}")
_decode_new = ObjectDecoder[NewStatement](NewStatement)
_decode_new_ones = ObjectDecoder[NewStatements](NewStatements)
SLICE_SECONDS = 2.0  # a call that issues works for so long, and at most a third of the time limit of a database call


async def issue_statement(request: ApiRequest, _: NoQuery) -> Response:
    """Issue the statement of a month that is over. It gets the customer's next number, is signed if the service has a
    key, and never changes. If nothing has changed since the last statement of the month, that one is the answer, with
    `Idempotent-Replayed`. What has come since then goes onto the new one as a visible difference. A month of very many
    records is prepared first: the answer is 202 until it is, and nothing is issued yet."""
    new = _decode_new(await request.read_json())
    month = read_month(request.customer_id, new.month, new.timezone, "/")
    result = await issue(request.services.database, _order(request, month), _until(request))
    if result.issued is None:
        return not_prepared(result.progress.records, result.progress.prepared)
    response = await statement_response(request, "json", result.issued.document, 201)
    path = request.scope["raw_path"].decode("ascii")
    response.headers["Location"] = f"{path}/{result.issued.listed.number}"
    if result.is_new:
        request.services.changes.note("statements", [request.customer_id])
    else:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _order(request: ApiRequest, month: Month) -> IssueOrder:
    services = request.services
    return IssueOrder(
        month=month,
        currency=services.settings.currency,
        issued_by=request.caller.key_name,
        now=services.clock.now(),
        sign=services.signer.sign,
    )


def _until(request: ApiRequest) -> float:
    seconds = min(SLICE_SECONDS, request.services.settings.database_timeout / 3)
    return asyncio.get_running_loop().time() + seconds


async def issue_statements(request: ApiRequest, _: NoQuery) -> Response:
    """Issue the statements of all customers with usage in a month that is over. One call does part of the work: call
    again with the `nextCursor` it answers until that is null. A customer whose month has not changed since its last
    statement is left as it is, so it may also be begun anew. One whose statement cannot be issued is named in `failed`,
    and the others are issued."""
    request.caller.require_reach(None)
    new = _decode_new_ones(await request.read_json())
    month = read_month("", new.month, new.timezone, "/")
    scope = f"issue {new.month} {new.timezone}"
    try:
        after = read_cursor(scope, new.cursor, Id) if new.cursor else ""
    except ProblemError as error:
        raise invalid_input("/cursor", "is not a cursor of this month") from error
    done = await issue_all(request.services.database, _order(request, month), after, _until(request))
    if done.issued:
        request.services.changes.note("statements", [each.customer_id for each in done.issued])
    return JsonResponse(
        IssueProgress(
            issued=done.issued,
            unchanged=done.unchanged,
            failed=done.failed,
            preparing=done.preparing,
            next_cursor=None if done.after is None else write_cursor(scope, done.after),
        )
    )


async def list_issued_statements(request: ApiRequest, query: IssuedStatementsQuery) -> Response:
    """List the statements that were issued to a customer, by number."""
    scope = f"issued {request.customer_id}"
    after = read_cursor(scope, query.cursor, Number) if query.cursor else 0
    async with request.services.database.read_connection() as connection:
        found = await list_issued(connection, request.customer_id, after, query.limit + 1)
        if not found:
            await require_customer(connection, request.customer_id)
    cursor = write_cursor(scope, found[query.limit - 1].number) if len(found) > query.limit else None
    return JsonResponse(IssuedStatements(data=found[: query.limit], next_cursor=cursor))


async def get_issued_statement(request: ApiRequest, query: IssuedStatementQuery) -> Response:
    """Read a statement that was issued, by its number or digest. As JSON it is the same, byte for byte, each time."""
    format_ = choose_format(request, query.format, STATEMENT_TYPES)
    issued = await find_by_name(request, request.ids["statement"])
    return await statement_response(request, format_, issued.document)


async def find_by_name(request: ApiRequest, name: str) -> Issued:
    """The statement of the customer in the path with a number or digest. Raises ProblemError (404)."""
    async with request.services.database.read_connection() as connection:
        issued = None
        if _NUMBER.fullmatch(name):
            issued = await find_issued(connection, request.customer_id, number=int(name))
        elif _DIGEST.fullmatch(name):
            issued = await find_issued(connection, request.customer_id, digest=bytes.fromhex(name))
        if issued is None:
            await require_customer(connection, request.customer_id)
            detail = "No statement with this number or digest was issued to this customer."
            raise ProblemError(problem("statement_not_found", detail))
    return issued


OPERATIONS = [
    Operation(
        method="POST",
        path="/customers/{customer_id}/statements",
        handler=issue_statement,
        tag="billing",
        scope="statements:issue",
        reach="customer",
        body=NewStatement,
        status=201,
        headers=("Location", "Idempotent-Replayed"),
        answer=Statement[PlainDecimal],
        accepted=StatementProgress,
        problems=("customer_not_found", "month_not_over", "records_changed", "billed_in_other_timezone"),
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id}/statements",
        handler=list_issued_statements,
        tag="billing",
        scope="usage:read",
        reach="customer",
        query=IssuedStatementsQuery,
        answer=IssuedStatements[PlainDecimal],
        problems=("customer_not_found",),
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id}/statements/{statement}",
        handler=get_issued_statement,
        tag="billing",
        scope="usage:read",
        reach="customer",
        query=IssuedStatementQuery,
        answer=Statement[PlainDecimal],
        media_types=tuple(STATEMENT_TYPES.values()),
        problems=("customer_not_found", "statement_not_found", "not_acceptable"),
    ),
    Operation(
        method="POST",
        path="/statements",
        handler=issue_statements,
        tag="billing",
        scope="statements:issue",
        reach="handler",
        body=NewStatements,
        answer=IssueProgress[PlainDecimal],
        problems=("month_not_over",),
    ),
]
