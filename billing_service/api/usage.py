"""The usage endpoints: record, list, read and void usage."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from billing_client.contract.decoding import RecordDecoder, decode_batch, decode_new_void, decode_usage
from billing_client.contract.identity import event_request_id
from billing_client.contract.outcomes import Decision, Submission, refusal_of, submissions_of
from billing_client.contract.problems import usage_not_found
from billing_client.contract.query_parameters import BatchQuery, NoQuery, UsageQuery
from billing_client.contract.request_parsing import instant_parameter, read_span
from billing_client.contract.wire import (
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
from billing_service.api.customers import path_of
from billing_service.database.pool import Connection
from billing_service.http.auth import Caller
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import ProblemError
from billing_service.http.operations import Operation, PlainDecimal, SentDecimal
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger.customers import require_customer
from billing_service.ledger.finds import find_anywhere
from billing_service.ledger.loop_slices import MOST, free_in_slices, in_slices, let_others_in, taken_in_slices
from billing_service.ledger.records import RecordFilter, find_record, list_records, void_record
from billing_service.telemetry import audit

_encode = msgspec.json.Encoder().encode
_Decoded = UsageRecord[str] | ProblemDetails[str]
_REQUEST_ID = re.compile(r"[0-9a-f]{64}")


class _Position(Struct, array_like=True, frozen=True):
    occurred_at: Timestamp
    request_id: Annotated[bytes, Meta(max_length=32)]


async def record_usage(request: ApiRequest, _: NoQuery) -> Response:
    """Record one use. The response is sent after the commit."""
    body = b""
    try:
        key = request.idempotency_key()
        body = await request.read_json()
        caller = request.caller
        record = decode_usage(
            body, request.services.clock.now(), caller.key_name, may_credit="usage:credit" in caller.scopes
        )
        await request.count_records(1)
        request.caller.require_reach(record.customer_id, record.request_id)
    except ProblemError as error:
        request.services.metrics.rejected("single")
        request.services.refusals.note(request.caller, error.details, body)
        request.info.outcome = "rejected"
        raise
    decision = await request.services.group_commit.record(Submission(record, key))
    request.info.outcome = decision.outcome
    if refusal := refusal_of(decision, record, may_read="usage:read" in request.caller.scopes):
        request.services.refusals.note(request.caller, refusal, body)
        raise ProblemError(refusal)
    headers = {"Location": f"{path_of(record.customer_id)}/usage/{record.request_id}"}
    if decision.outcome == "replayed":
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(decision.record, 201, headers)


async def record_batch(request: ApiRequest, query: BatchQuery) -> Response:
    """Record many uses in one transaction. An invalid record does not affect the others. `dryRun` writes nothing."""
    key = request.idempotency_key()
    records = decode_batch(await request.read_json()).records
    await request.count_records(len(records))
    decoded, submissions = await _decode_records(records, key, request.services.clock.now(), request.caller)
    group_commit = request.services.group_commit
    if query.dry_run:
        decisions = await group_commit.dry_run_batch(submissions)
    else:
        request.services.metrics.rejected("batch", len(decoded) - len(submissions))
        is_sent = asyncio.Event()
        answer = asyncio.create_task(_encode_recorded(submissions, is_sent))
        try:
            decisions = await group_commit.record_batch(submissions, is_sent)
            if submissions and len(submissions) == len(records) and all(map(_is_recorded, decisions)):
                is_sent.set()
                request.info.outcomes = Counter({"recorded": len(records)})
                body = await answer
                await free_in_slices(decoded, decisions, submissions)
                return JsonResponse(body)
        finally:
            answer.cancel()
    if len(submissions) > MOST:
        await let_others_in()  # before very many objects are freed
    del submissions
    return JsonResponse(await _encode_results(request, records, decoded, decisions, notes_refusals=not query.dry_run))


def _is_recorded(decision: Decision) -> bool:
    return decision.outcome == "recorded"


async def _encode_recorded(submissions: Sequence[Submission], is_sent: asyncio.Event) -> bytearray:
    """The BatchResults of a batch of which all is recorded, as it is most often. They are encoded while the database
    works, as soon as it was sent what it has to do: a core is idle then."""
    await is_sent.wait()
    body = bytearray(b'{"results":[')
    async for part in in_slices(submissions):
        body += _encode([BatchResult("recorded", each.record) for each in part])[1:-1]  # without the brackets
        body += b","
    body[-1:] = b"]}"
    return body


async def _decode_records(
    records: list[msgspec.Raw], key: str | None, received_at: datetime, caller: Caller
) -> tuple[list[_Decoded], list[Submission]]:
    """Each record of a batch, or the problem it was rejected with; and the submissions of the records."""
    decoded: list[_Decoded] = []
    submissions: list[Submission] = []
    seen: set[tuple[str, str]] = set()
    decode = RecordDecoder(received_at, caller.key_name, may_credit="usage:credit" in caller.scopes)
    async for part in in_slices(records):
        sound: list[UsageRecord[str]] = []
        for record in decode.many(part):
            if isinstance(record, ProblemError):
                decoded.append(record.details)
            elif caller.reaches(record.customer_id):
                decoded.append(record)
                sound.append(record)
            else:
                decoded.append(caller.out_of_reach(record.request_id).details)
        submissions += submissions_of(sound, key, seen)
    return decoded, submissions


async def _encode_results(
    request: ApiRequest,
    records: list[msgspec.Raw],
    decoded: list[_Decoded],
    decisions: list[Decision],
    *,
    notes_refusals: bool,
) -> bytearray:
    """The BatchResults of a batch in JSON. Counts the outcomes, and empties the lists."""
    may_read = "usage:read" in request.caller.scopes
    body, separator, counts = bytearray(b'{"results":['), b"", Counter[str]()
    records.reverse()
    decisions.reverse()
    async for part in taken_in_slices(decoded):
        results = []
        for record in part:
            if isinstance(record, UsageRecord):
                result = _result(decisions.pop(), record, may_read)
            else:
                result = BatchResult[str](outcome="rejected", problem=record)
            submitted = records.pop()
            if notes_refusals and result.problem is not None:
                request.services.refusals.note(request.caller, result.problem, submitted)
            results.append(result)
        counts.update(result.outcome for result in results)
        body += separator + _encode(results)[1:-1]  # without the brackets
        separator = b","
    body += b"]}"
    request.info.outcomes = counts
    return body


def _result(decision: Decision, record: UsageRecord[str], may_read: bool) -> BatchResult[str]:
    refusal = refusal_of(decision, record, may_read=may_read)
    return BatchResult(outcome=decision.outcome, record=None if refusal else decision.record, problem=refusal)


async def list_usage(request: ApiRequest, query: UsageQuery) -> Response:
    """List a customer's records by time of occurrence."""
    customer_id = request.customer_id
    start, end = read_span(query.from_, query.to)
    wanted = RecordFilter(end, query.service, query.dimensions)
    scope = repr(("usage", customer_id, query.service, sorted(query.dimensions.items()), start, end))
    after = read_cursor(scope, query.cursor, _Position) if query.cursor else _Position(start, b"")
    since = instant_parameter("cursor", after.occurred_at, start)
    near = request.services.group_commit.near(customer_id)
    async with request.services.database.read_connection(is_large=bool(query.dimensions), near=near) as connection:
        await require_customer(connection, customer_id)
        if query.event_id is not None:
            return JsonResponse(await _page_of_event(connection, customer_id, query, start, end))
        records = await list_records(connection, customer_id, (since, after.request_id), wanted, query.limit + 1)
    cursor = None
    if len(records) > query.limit:
        last = records[query.limit - 1]
        cursor = write_cursor(scope, _Position(last.occurred_at, bytes.fromhex(last.request_id)))
    page = UsagePage(data=records[: query.limit], next_cursor=cursor)
    return JsonResponse(page)


async def _page_of_event(
    connection: Connection, customer_id: str, query: UsageQuery, start: datetime, end: datetime
) -> UsagePage[str]:
    """The page of the one record with an event id, which is found by its request id; empty if a filter drops it."""
    request_id = event_request_id(customer_id, query.event_id or "")
    record = await find_record(connection, customer_id, bytes.fromhex(request_id))
    is_wanted = (
        record is not None
        and query.service in (None, record.service)
        and start <= record.occurred_at < end
        and query.dimensions.items() <= (record.dimensions or {}).items()
    )
    return UsagePage(data=[record] if record is not None and is_wanted else [], next_cursor=None)


async def find_usage(request: ApiRequest, _: NoQuery) -> Response:
    """Find one record whose customer is not known, for callers that are not bound to a customer. It looks at each
    customer, so it takes longer the more customers there are; the number of records does not matter."""
    request.caller.require_reach(None)
    request_id = request.ids["request_id"]
    async with request.services.database.read_connection(is_large=True) as connection:
        record = None
        if _REQUEST_ID.fullmatch(request_id):
            record = await find_anywhere(connection, bytes.fromhex(request_id))
    if record is None:
        raise ProblemError(usage_not_found(request_id, of_all=True))
    return JsonResponse(record)


async def get_usage(request: ApiRequest, _: NoQuery) -> Response:
    """Read one record."""
    customer_id = request.customer_id
    request_id = request.ids["request_id"]
    near = request.services.group_commit.near(customer_id)
    async with request.services.database.read_connection(near=near) as connection:
        record = None
        if _REQUEST_ID.fullmatch(request_id):
            record = await find_record(connection, customer_id, bytes.fromhex(request_id))
        if record is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
    return JsonResponse(record)


async def void_usage(request: ApiRequest, _: NoQuery) -> Response:
    """Void a record. It no longer counts in totals, but stays readable. A second void answers like the first one."""
    customer_id = request.customer_id
    request_id = request.ids["request_id"]
    void = decode_new_void(await request.read_json())
    voided_by, voided_at = request.caller.key_name or request.caller.name, request.services.clock.now()
    async with request.services.database.write_connection() as connection:
        voided = None
        if _REQUEST_ID.fullmatch(request_id):
            voided = await void_record(connection, customer_id, bytes.fromhex(request_id), void, voided_by, voided_at)
        if voided is None:
            await require_customer(connection, customer_id)
            raise ProblemError(usage_not_found(request_id))
    if voided.voided_at == voided_at:
        request.services.changes.note("totals", (customer_id,))
        audit.usage_voided(request_id, customer_id, voided_by)
    return JsonResponse(voided)


OPERATIONS = [
    Operation(
        method="POST",
        path="/usage",
        handler=record_usage,
        tag="usage",
        scope="usage:write",
        reach="handler",
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
        reach="handler",
        idempotency_key=True,
        query=BatchQuery,
        body=Batch,
        answer=BatchResults[PlainDecimal],
    ),
    Operation(
        method="GET",
        path="/usage/{request_id}",
        handler=find_usage,
        tag="usage",
        scope="usage:read",
        reach="handler",
        answer=UsageRecord[PlainDecimal],
        problems=("usage_not_found",),
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id}/usage",
        handler=list_usage,
        tag="usage",
        scope="usage:read",
        reach="customer",
        query=UsageQuery,
        answer=UsagePage[PlainDecimal],
        problems=("customer_not_found",),
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id}/usage/{request_id}",
        handler=get_usage,
        tag="usage",
        scope="usage:read",
        reach="customer",
        answer=UsageRecord[PlainDecimal],
        problems=("customer_not_found", "usage_not_found"),
    ),
    Operation(
        method="POST",
        path="/customers/{customer_id}/usage/{request_id}/void",
        handler=void_usage,
        tag="usage",
        scope="usage:void",
        reach="customer",
        body=NewVoid,
        answer=VoidedUsage[PlainDecimal],
        problems=("customer_not_found", "usage_not_found"),
    ),
]
