"""A record: everything that is known of it, and the form to void it."""

import re
import shlex
from datetime import datetime
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
from starlette.responses import Response

from billing_client.contract.decoding import decode_new_void
from billing_client.contract.periods import day_at, read_month
from billing_client.contract.problems import usage_not_found
from billing_client.contract.statements.content_hashes import record_hash, void_hash
from billing_client.contract.statements.structs import IssuedStatement
from billing_client.contract.wire import VoidedUsage
from billing_service.console.formats import path, query
from billing_service.console.pages import View, page_operation, read_form, redirect, show, zone_of
from billing_service.console.refusals import REASONS, refused_under
from billing_service.http.errors import ProblemError
from billing_service.http.requests import ApiRequest
from billing_service.ledger.customers import require_customer
from billing_service.ledger.finds import RecordDetails, read_details
from billing_service.ledger.records import void_record
from billing_service.ledger.statements.issued import latest_listed
from billing_service.telemetry import audit

_REQUEST_ID = re.compile(r"[0-9a-f]{64}")


async def show_record(request: ApiRequest, _: None) -> Response:
    """Show everything that is known of a record."""
    return await _show(request)


async def _show(request: ApiRequest, problem: ProblemError | None = None, reason: str = "") -> Response:
    zone, now = zone_of(request), request.services.clock.now()
    details = await _details(request)
    record = details.record
    async with request.services.database.read_connection() as connection:
        customer = await require_customer(connection, record.customer_id)
        refused = await refused_under(connection, record.customer_id, request_id=bytes.fromhex(record.request_id))
    address = _api_address(request)
    return show(
        request,
        "record",
        View(zone, now),
        problem.details.status if problem else 200,
        record=record,
        customer_name=customer.name if "customers:read" in request.caller.scopes else customer.id,
        dimensions=list((record.dimensions or {}).items()),
        idempotency_key=details.idempotency_key,
        content_hash=record_hash(record).hex(),
        void=record if isinstance(record, VoidedUsage) else None,
        void_hash=void_hash(record).hex() if isinstance(record, VoidedUsage) else None,
        may_void="usage:void" in request.caller.scopes,
        problem=problem.details if problem else None,
        reason=reason,
        refusals=refused,
        statement=await _statement(request, record.occurred_at, zone),
        reasons=REASONS,
        curl=f'curl -H "Authorization: Bearer $BILLING_API_KEY" {shlex.quote(address)}',
    )


async def _statement(request: ApiRequest, occurred_at: datetime, zone: str) -> IssuedStatement[str] | None:
    """The statement of the record's month that was issued last; None without any."""
    day = day_at(occurred_at, ZoneInfo(zone))
    month = read_month(request.customer_id, f"{day:%Y-%m}", zone, "query/")
    async with request.services.database.read_connection() as connection:
        return await latest_listed(connection, month)


def _api_address(request: ApiRequest) -> str:
    customer, record = (quote(request.ids[name], safe="") for name in ("customer_id", "request_id"))
    return f"{request.url.scheme}://{request.url.netloc}/customers/{customer}/usage/{record}"


async def _details(request: ApiRequest) -> RecordDetails:
    customer_id, request_id = request.customer_id, request.ids["request_id"]
    async with request.services.database.read_connection() as connection:
        details = None
        if _REQUEST_ID.fullmatch(request_id):
            details = await read_details(connection, customer_id, bytes.fromhex(request_id))
        if details is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
    return details


async def void(request: ApiRequest, _: None) -> Response:
    """Void a record, with a reason. It no longer counts in totals, but stays readable."""
    form = await read_form(request)
    sent = {"reason": form.get("reason", "").strip(), "voidedFor": form.get("voided_for", "").strip() or None}
    try:
        new = decode_new_void(msgspec.json.encode(sent))
    except ProblemError as error:
        return await _show(request, error, sent["reason"] or "")
    request_id = (await _details(request)).record.request_id
    by, at = request.caller.key_name or request.caller.name, request.services.clock.now()
    async with request.services.database.write_connection() as connection:
        voided = await void_record(connection, request.customer_id, bytes.fromhex(request_id), new, by, at)
    if voided is not None and voided.voided_at == at:
        audit.usage_voided(request_id, request.customer_id, by)
        request.services.changes.note("totals", (request.customer_id,))
    zone = request.query_params.get("timezone")
    return redirect(request, path("customers", request.customer_id, "records", request_id) + query(timezone=zone))


OPERATIONS = [
    page_operation("GET", "/console/customers/{customer_id}/records/{request_id}", show_record, "usage:read"),
    page_operation("POST", "/console/customers/{customer_id}/records/{request_id}/void", void, "usage:void"),
]
