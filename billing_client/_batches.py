"""Many uses in batches: bounded memory for input without end, an outcome for each use, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from decimal import Decimal
from hashlib import sha256
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client._encoding import EncodedUsage, encode_usage
from billing_client._errors import (
    BillingError,
    DuplicateRecordError,
    EventIdConflictError,
    UnexpectedResponseError,
    ValidationError,
)
from billing_client._records import Usage, UsageRecord
from billing_client._responses import Answer, decode_answer, error_of_problem
from billing_client._transport import Call, Transport
from billing_client.contract.wire import MAX_BATCH_RECORDS, BatchResult, Outcome

BATCH_BYTES = 4 * 1024 * 1024


class Result(BatchResult[Decimal], frozen=True):
    """A result with its record as callers get it."""

    record: UsageRecord | None = None


class _Results(Struct):
    results: list[Result]


_RESULTS = msgspec.json.Decoder(_Results)


class UsageOutcome(Struct, frozen=True, kw_only=True):
    """What became of one use of a batch.

    `record` is the stored record, None where nothing is stored for it; `error` is what `record_usage` would have
    raised, None where the use is recorded, was recorded by this very call before (`replayed`), or is `recordable`.
    """

    usage: Usage
    outcome: Outcome
    request_id: str | None
    record: UsageRecord | None
    error: BillingError | None


_Entry = tuple[Usage, EncodedUsage | ValidationError]


async def record_usages(
    transport: Transport,
    usages: Iterable[Usage] | AsyncIterable[Usage],
    batch_size: int,
    concurrency: int,
    dry_run: bool,
    repeatable: bool,
) -> AsyncGenerator[UsageOutcome, None]:
    """See BillingSystemClient.record_usages."""
    if not 1 <= batch_size <= MAX_BATCH_RECORDS or concurrency < 1:
        raise ValueError(f"batch_size must be 1 to {MAX_BATCH_RECORDS}, concurrency at least 1")
    sending: deque[asyncio.Task[list[UsageOutcome]]] = deque()
    try:
        async with aclosing(_batches(usages, batch_size)) as batches:
            async for batch in batches:
                sending.append(asyncio.create_task(_send(transport, batch, dry_run, repeatable)))
                if len(sending) == concurrency:
                    for outcome in await sending[0]:
                        yield outcome
                    sending.popleft()
        while sending:
            for outcome in await sending[0]:
                yield outcome
            sending.popleft()
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def _batches(
    usages: Iterable[Usage] | AsyncIterable[Usage], batch_size: int
) -> AsyncGenerator[list[_Entry], None]:
    """Batches of at most `batch_size` uses and about BATCH_BYTES, each as soon as it is full."""
    batch: list[_Entry] = []
    size = 0
    async with aclosing(_each(usages)) as each:
        async for usage in each:
            entry = _encoded(usage)
            batch.append((usage, entry))
            size += len(entry.body) if isinstance(entry, EncodedUsage) else 0
            if len(batch) == batch_size or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


async def _each(usages: Iterable[Usage] | AsyncIterable[Usage]) -> AsyncGenerator[Usage, None]:
    if isinstance(usages, AsyncIterable):
        async for usage in usages:
            yield usage
    else:
        for usage in usages:
            yield usage


def _encoded(usage: Usage) -> EncodedUsage | ValidationError:
    try:
        return encode_usage(usage)
    except ValidationError as error:
        return error


async def _send(transport: Transport, batch: list[_Entry], dry_run: bool, repeatable: bool) -> list[UsageOutcome]:
    bodies = [entry.body for _, entry in batch if isinstance(entry, EncodedUsage)]
    call = batch_call(bodies, _key_of(bodies) if repeatable else str(uuid4()))
    call.query = {"dryRun": "true"} if dry_run else {}
    given = iter(await send_batch(transport, call, len(bodies)) if bodies else ())
    return [
        outcome_of(usage, entry.request_id, next(given), call)
        if isinstance(entry, EncodedUsage)
        else UsageOutcome(usage=usage, outcome="rejected", request_id=None, record=None, error=entry)
        for usage, entry in batch
    ]


def _key_of(bodies: Iterable[bytes]) -> str:
    return f"batch-{sha256(b','.join(bodies)).hexdigest()[:32]}"


def batch_call(bodies: Iterable[bytes], idempotency_key: str) -> Call:
    """The call that records encoded uses."""
    return Call("POST", "/usage/batch", b'{"records":[' + b",".join(bodies) + b"]}", idempotency_key)


async def send_batch(transport: Transport, call: Call, records: int) -> list[Result]:
    """Send a batch of so many records; gives a result for each, in order. Raises BillingError."""
    return _results(call, await transport.send(call), records)


def _results(call: Call, answer: Answer, expected: int) -> list[Result]:
    results = decode_answer(_RESULTS, answer, call.facts("unknown")).results
    if len(results) != expected or not all(map(_is_whole, results)):
        detail = f"the service answered {len(results)} results for {expected} records, or some without their members"
        raise UnexpectedResponseError(detail, status=answer.status, **call.facts("unknown"))
    return results


def _is_whole(result: Result) -> bool:
    done = result.outcome in ("recorded", "replayed", "recordable")
    return (result.record is not None, result.problem is not None) == (done, not done)


def outcome_of(usage: Usage, request_id: str, result: Result, call: Call) -> UsageOutcome:
    """What a result of a batch says of its use."""
    error = None if result.problem is None else error_of_problem(result.problem, call.facts("rejected"))
    record = result.record
    if isinstance(error, (DuplicateRecordError, EventIdConflictError)):
        record = error.existing
    elif record is not None and result.outcome in ("recorded", "replayed"):
        record = msgspec.structs.replace(record, outcome=result.outcome)
    return UsageOutcome(usage=usage, outcome=result.outcome, request_id=request_id, record=record, error=error)
