"""The endpoints of usage: from bytes to an outcome and back."""

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.decoding import decode_batch, decode_new_void, decode_usage
from billing_client.contract.problems import customer_not_found, duplicate_record, event_id_conflict, usage_not_found
from billing_client.contract.query_parameters import BatchQuery, NoQuery, UsageQuery
from billing_client.contract.request_parsing import BEGINNING, END, instant_parameter
from billing_client.contract.wire import (
    MAX_BATCH_RECORDS,
    Batch,
    BatchResult,
    BatchResults,
    NewUsage,
    NewVoid,
    ProblemDetails,
    Timestamp,
    UsagePage,
    UsageRecord,
    VoidedUsage,
)
from billing_service.api.customers import path_of, require_customer
from billing_service.database.pool import Database
from billing_service.http.auth import Caller, caller_of
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import ProblemError, invalid_input
from billing_service.http.operations import Operation, PlainDecimal, SentDecimal
from billing_service.http.rate_limits import count_records
from billing_service.http.requests import idempotency_key, read_json
from billing_service.http.responses import JsonResponse
from billing_service.ledger import records as ledger
from billing_service.ledger.group_commit import Recorder
from billing_service.ledger.records import Report, Verdict
from billing_service.telemetry.metrics import Metrics

_REQUEST_ID = re.compile(r"[0-9a-f]{64}")


class _Position(Struct, array_like=True, frozen=True):
    occurred_at: Timestamp
    request_id: Annotated[bytes, Meta(max_length=32)]


async def record_usage(request: Request, _: NoQuery) -> Response:
    """Record one use. The answer comes after the commit."""
    try:
        key = idempotency_key(request)
        record = decode_usage(await read_json(request), datetime.now(UTC))
        await count_records(request, 1)
        caller_of(request).require_reach(record.customer_id, record.request_id)
    except ProblemError:
        _metrics(request).rejected("single")
        request.scope["billing.outcome"] = "rejected"
        raise
    recorder: Recorder = request.app.state.recorder
    verdict = await recorder.record(Report(record, key))
    request.scope["billing.outcome"] = verdict.outcome
    if refusal := _refusal(verdict, record):
        raise ProblemError(refusal)
    headers = {"Location": f"{path_of(record.customer_id)}/usage/{record.request_id}"}
    if verdict.outcome == "replayed":
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(verdict.record, 201, headers)


async def record_batch(request: Request, query: BatchQuery) -> Response:
    """Record many uses in one transaction; a bad one harms no other. With `dryRun` nothing is written."""
    key = idempotency_key(request)
    batch = decode_batch(await read_json(request))
    if len(batch.records) > MAX_BATCH_RECORDS:
        raise invalid_input("/records", f"must hold at most {MAX_BATCH_RECORDS} records")
    await count_records(request, len(batch.records))
    entries = _read_entries(batch.records, datetime.now(UTC), caller_of(request))
    reports = _reports([entry for entry in entries if isinstance(entry, UsageRecord)], key)
    recorder: Recorder = request.app.state.recorder
    if not query.dry_run:
        _metrics(request).rejected("batch", len(entries) - len(reports))
    verdicts = iter(await (recorder.judge_batch if query.dry_run else recorder.record_batch)(reports))
    results = [
        _result(next(verdicts), entry)
        if isinstance(entry, UsageRecord)
        else BatchResult[str](outcome="rejected", problem=entry)
        for entry in entries
    ]
    request.scope["billing.outcomes"] = Counter(result.outcome for result in results)
    return JsonResponse(BatchResults(results=results))


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _read_entries(
    records: list[msgspec.Raw], received_at: datetime, caller: Caller
) -> list[UsageRecord[str] | ProblemDetails[str]]:
    entries: list[UsageRecord[str] | ProblemDetails[str]] = []
    for raw in records:
        try:
            record = decode_usage(bytes(raw), received_at)
            caller.require_reach(record.customer_id, record.request_id)
            entries.append(record)
        except ProblemError as error:
            entries.append(error.details)
    return entries


def _reports(records: list[UsageRecord[str]], key: str | None) -> list[Report]:
    """The reports of one call: usage that it reports twice is a second report, not a retry of the call."""
    seen: set[str] = set()
    reports = []
    for record in records:
        reports.append(Report(record, None if record.request_id in seen else key))
        seen.add(record.request_id)
    return reports


def _result(verdict: Verdict, record: UsageRecord[str]) -> BatchResult[str]:
    refusal = _refusal(verdict, record)
    return BatchResult(outcome=verdict.outcome, record=None if refusal else verdict.record, problem=refusal)


def _refusal(verdict: Verdict, record: UsageRecord[str]) -> ProblemDetails[str] | None:
    """The problem this verdict amounts to, None where the usage is recorded."""
    match verdict.outcome:
        case "duplicate":
            return duplicate_record(verdict.record, record)
        case "conflict":
            return event_id_conflict(verdict.record, record, verdict.conflicts)
        case "rejected":
            return customer_not_found(record.customer_id, record.request_id)
    return None


async def list_usage(request: Request, query: UsageQuery) -> Response:
    """List a customer's records by the time they occurred."""
    customer_id: str = request.path_params["customer_id"]
    start, end = instant_parameter("from", query.from_, BEGINNING), instant_parameter("to", query.to, END)
    scope = repr(("usage", customer_id, query.service, start, end))
    after = read_cursor(scope, query.cursor, _Position) if query.cursor else _Position(start, b"")
    since = instant_parameter("cursor", after.occurred_at, start)
    database: Database = request.app.state.database
    async with database.connection() as connection:
        await require_customer(connection, customer_id)
        records = await ledger.list_records(
            connection, customer_id, (since, after.request_id), end, query.service, query.limit + 1
        )
    cursor = None
    if len(records) > query.limit:
        last = records[query.limit - 1]
        cursor = write_cursor(scope, _Position(last.occurred_at, bytes.fromhex(last.request_id)))
    page = UsagePage(data=records[: query.limit], next_cursor=cursor)
    return JsonResponse(page)


async def get_usage(request: Request, _: NoQuery) -> Response:
    """Read one record."""
    customer_id: str = request.path_params["customer_id"]
    request_id: str = request.path_params["request_id"]
    database: Database = request.app.state.database
    async with database.connection() as connection:
        record = None
        if _REQUEST_ID.fullmatch(request_id):
            record = await ledger.find_record(connection, customer_id, bytes.fromhex(request_id))
        if record is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
    return JsonResponse(record)


async def void_usage(request: Request, _: NoQuery) -> Response:
    """Take a record out of what is owed; the record stays. A second void answers as the first."""
    customer_id: str = request.path_params["customer_id"]
    request_id: str = request.path_params["request_id"]
    void = decode_new_void(await read_json(request))
    voided_by = void.voided_by or caller_of(request).name
    database: Database = request.app.state.database
    async with database.connection() as connection:
        voided = None
        if _REQUEST_ID.fullmatch(request_id):
            voided = await ledger.void_record(
                connection, customer_id, bytes.fromhex(request_id), void.reason, voided_by, datetime.now(UTC)
            )
        if voided is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
    return JsonResponse(voided)


OPERATIONS = [
    Operation(
        method="POST",
        path="/usage",
        handler=record_usage,
        tag="usage",
        scope="usage:write",
        idempotency_key=True,
        body=NewUsage[SentDecimal],
        status=201,
        headers=("Location", "Idempotent-Replayed"),
        answer=UsageRecord[PlainDecimal],
        problems=("customer_not_found", "duplicate_record", "event_id_conflict"),
    ),
    Operation(
        method="POST",
        path="/usage/batch",
        handler=record_batch,
        tag="usage",
        scope="usage:write",
        idempotency_key=True,
        query=BatchQuery,
        body=Batch,
        answer=BatchResults[PlainDecimal],
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id:id}/usage",
        handler=list_usage,
        tag="usage",
        scope="usage:read",
        query=UsageQuery,
        answer=UsagePage[PlainDecimal],
        problems=("customer_not_found",),
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id:id}/usage/{request_id:id}",
        handler=get_usage,
        tag="usage",
        scope="usage:read",
        answer=UsageRecord[PlainDecimal],
        problems=("customer_not_found", "usage_not_found"),
    ),
    Operation(
        method="POST",
        path="/customers/{customer_id:id}/usage/{request_id:id}/void",
        handler=void_usage,
        tag="usage",
        scope="usage:write",
        body=NewVoid,
        answer=VoidedUsage[PlainDecimal],
        problems=("customer_not_found", "usage_not_found"),
    ),
]
