"""The endpoint of statements: a customer's month, for a program or for a person.

A statement's digest is the SHA-256 of the request ids (32 bytes each) of the records that count in it, joined in
ascending byte order, so either side can prove what it contained. From the client's `usage()`::

    sha256(b"".join(sorted([bytes.fromhex(r.request_id) async for r in client.usage(
        customer_id=customer_id, start=start, end=end) if r.voided_at is None]))).hexdigest()
"""

import asyncio
import re
from datetime import UTC, date, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.wire import FieldError, Statement
from billing_service.database import Database
from billing_service.negotiation import choose_format
from billing_service.operations import Operation, PlainDecimal
from billing_service.problems import ProblemError, invalid
from billing_service.requests import Timezone, check_timezone
from billing_service.statement_formats import STYLE_SOURCE, render_csv, render_html
from billing_service.statement_ledger import Month, issue_statement

_encode = msgspec.json.Encoder().encode
MEDIA_TYPES = {"json": "application/json", "csv": "text/csv", "html": "text/html"}
_MONTH = re.compile(r"^(?!0000|0001|9999)[0-9]{4}-(0[1-9]|1[0-2])$")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SINCE = Meta(
    description="The digest of an earlier statement of the month.",
    extra_json_schema={"pattern": f"^{_DIGEST.pattern}$"},
)
_POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class StatementQuery(Struct):
    month: Annotated[
        str,
        Meta(
            description="A month such as 2026-11.",
            extra_json_schema={"pattern": _MONTH.pattern, "example": "2026-11"},
        ),
    ]
    timezone: Timezone = "UTC"
    since: Annotated[str, _SINCE] | None = None
    format: Annotated[str, Meta(extra_json_schema={"enum": list(MEDIA_TYPES)})] | None = None


async def get_statement(request: Request, query: StatementQuery) -> Response:
    """Read a customer's month line by line, and with `since` what changed since an earlier statement of it."""
    _check(query)
    format_ = choose_format(request, query.format, MEDIA_TYPES)
    month = _month(request.path_params["customer_id"], query)
    since = None if query.since is None else bytes.fromhex(query.since)
    database: Database = request.app.state.database
    async with database.connection() as connection:
        statement = await issue_statement(connection, month, request.app.state.settings.currency, since)
    body = await asyncio.to_thread(_FORMATS[format_], statement)
    return Response(body, headers=_headers(format_, query.month), media_type=MEDIA_TYPES[format_])


def _check(query: StatementQuery) -> None:
    """Raise ProblemError with all the faults of a query."""
    errors = []
    if not _MONTH.fullmatch(query.month):
        errors.append(
            FieldError(pointer="query/month", message="must be a month such as 2026-11, from 0002-01 to 9998-12")
        )
    if query.since is not None and not _DIGEST.fullmatch(query.since):
        errors.append(FieldError(pointer="query/since", message="must be a digest: 64 lower-case hex digits"))
    try:
        check_timezone(query.timezone)
    except ProblemError as error:
        errors += error.details.errors or []
    if errors:
        raise ProblemError(invalid(errors))


def _month(customer_id: str, query: StatementQuery) -> Month:
    zone, first = ZoneInfo(query.timezone), date.fromisoformat(f"{query.month}-01")
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return Month(customer_id, first, query.timezone, _midnight(first, zone), _midnight(following, zone))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins. An hour that comes twice counts from the first time, one that is left out not at all."""
    return datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).astimezone(UTC)


_FORMATS = {"json": _encode, "csv": render_csv, "html": render_html}


def _headers(format_: str, month: str) -> dict[str, str]:
    headers = {"Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    if format_ == "csv":
        headers["Content-Disposition"] = f'attachment; filename="statement-{month}.csv"'
    if format_ == "html":
        headers |= {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return headers


OPERATIONS = [
    Operation(
        method="GET",
        path="/customers/{customer_id:id}/statement",
        handler=get_statement,
        tag="owed",
        scope="usage:read",
        query=StatementQuery,
        answer=Statement[PlainDecimal],
        media_types=tuple(MEDIA_TYPES.values()),
        problems=("customer_not_found", "statement_not_found", "not_acceptable"),
    )
]
