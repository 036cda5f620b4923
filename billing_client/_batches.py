"""Records any number of uses in batches: bounded memory, and an outcome for each use, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from decimal import Decimal
from hashlib import sha256
from typing import NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client._calls import ApiCall
from billing_client._encoding import EncodedUsage, encode_usage
from billing_client._errors import (
    BillingError,
    DuplicateRecordError,
    EventIdConflictError,
    UnexpectedResponseError,
    ValidationError,
)
from billing_client._records import Usage, UsageRecord
from billing_client._responses import error_from_problem, is_about_other_usage, is_as_sent, require_numbers, unexpected
from billing_client._transport import Transport
from billing_client.contract.wire import MAX_BATCH_RECORDS, BatchResult, Outcome

BATCH_BYTES = 4 * 1024 * 1024  # a batch ends after the use with which it reaches this size


class UsageResult(BatchResult[Decimal], frozen=True):
    """What became of one record of a batch, with the record as callers get it."""

    record: UsageRecord | None = None


class _UsageResults(Struct):
    results: list[UsageResult]


_REFUSED = frozenset({"duplicate", "conflict", "rejected"})
_RESULTS = msgspec.json.Decoder(_UsageResults)


class UsageOutcome(Struct, frozen=True, kw_only=True):
    """What became of one use of a batch.

    Attributes:
        usage: The use, as it was given.
        outcome: `recorded`; `replayed` if this very call recorded it before; `duplicate` if another call did;
            `conflict` if its event id is recorded with other data; `rejected` if it was refused; or, in a dry run,
            `recordable`.
        request_id: The request id of the use. None if the use is not valid.
        record: The stored record. None if nothing is stored for the use.
        error: What `record_usage` would have raised. None if it would have raised nothing.
    """

    usage: Usage
    outcome: Outcome
    request_id: str | None
    record: UsageRecord | None
    error: BillingError | None


class _Item(NamedTuple):
    """A use of a batch, encoded, or with the error of what is wrong with it."""

    usage: Usage
    encoded: EncodedUsage | ValidationError


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
        async with aclosing(_split(usages, batch_size)) as batches:
            async for batch in batches:
                sending.append(asyncio.create_task(_record_batch(transport, batch, dry_run, repeatable)))
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


async def _split(usages: Iterable[Usage] | AsyncIterable[Usage], batch_size: int) -> AsyncGenerator[list[_Item], None]:
    """Batches of at most `batch_size` uses and about BATCH_BYTES, each as soon as it is full."""
    batch: list[_Item] = []
    size = 0
    async with aclosing(_iterate(usages)) as each:
        async for usage in each:
            try:
                encoded: EncodedUsage | ValidationError = encode_usage(usage)
            except ValidationError as error:
                encoded = error
            batch.append(_Item(usage, encoded))
            size += len(encoded.body) if isinstance(encoded, EncodedUsage) else 0
            if len(batch) == batch_size or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


async def _iterate(usages: Iterable[Usage] | AsyncIterable[Usage]) -> AsyncGenerator[Usage, None]:
    if isinstance(usages, AsyncIterable):
        async for usage in usages:
            yield usage
    else:
        for usage in usages:
            yield usage


async def _record_batch(
    transport: Transport, batch: list[_Item], dry_run: bool, repeatable: bool
) -> list[UsageOutcome]:
    valid = [item.encoded for item in batch if isinstance(item.encoded, EncodedUsage)]
    call = batch_call(valid, _key_of(valid) if repeatable else str(uuid4()), dry_run)
    found = await send_batch(transport, call, valid) if valid else []
    if any((result.outcome == "recordable") is not dry_run for result in found if result.problem is None):
        detail = f"the service answered as if the call were {'no' if dry_run else 'a'} dry run"
        raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))
    results = iter(found)
    return [
        UsageOutcome(usage=usage, outcome="rejected", request_id=None, record=None, error=encoded)
        if isinstance(encoded, ValidationError)
        else outcome_from_result(usage, encoded.request_id, next(results), call)
        for usage, encoded in batch
    ]


def _key_of(usages: Iterable[EncodedUsage]) -> str:
    """The Idempotency-Key of a repeatable batch: the same uses, the same key."""
    return f"batch-{sha256(b','.join(usage.body for usage in usages)).hexdigest()[:32]}"


def batch_call(usages: Iterable[EncodedUsage], idempotency_key: str, dry_run: bool = False) -> ApiCall:
    """The call that records these uses."""
    body = b'{"records":[' + b",".join(usage.body for usage in usages) + b"]}"
    return ApiCall("POST", "/usage/batch", body, idempotency_key, query={"dryRun": "true"} if dry_run else {})


async def send_batch(transport: Transport, call: ApiCall, usages: Sequence[EncodedUsage]) -> list[UsageResult]:
    """Send the call that records these uses, and give a result for each, in order. Raises BillingError."""
    response = await transport.send(call)
    try:
        results = _RESULTS.decode(response.body).results
        require_numbers([result.problem for result in results if result.problem is not None])
    except (ValueError, RecursionError) as error:
        raise unexpected(f"the response is not what was asked for: {error}", response, call) from error
    if len(results) != len(usages) or not all(map(_is_complete, results)):
        detail = f"the service answered {len(results)} results for {len(usages)} records, or some without their members"
        raise unexpected(detail, response, call)
    if any(map(_is_of_other_usage, results, usages)):
        raise unexpected("the service answered a result of another record than was sent", response, call)
    return results


def _is_complete(result: UsageResult) -> bool:
    """Whether a result has the one member that goes with its outcome, and an outcome that can be."""
    problem = result.problem
    if problem is None:
        return result.record is not None and result.outcome not in _REFUSED
    if result.record is not None or result.outcome not in _REFUSED or not 400 <= problem.status <= 599:
        return False
    return problem.existing is not None or result.outcome == "rejected"


def _is_of_other_usage(result: UsageResult, usage: EncodedUsage) -> bool:
    if result.record is not None:
        return result.record.request_id != usage.request_id or not is_as_sent(result.record, usage.body)
    if result.problem is None or is_about_other_usage(result.problem, usage.request_id):
        return True
    existing = result.problem.existing
    return result.outcome == "duplicate" and existing is not None and not is_as_sent(existing, usage.body)


def outcome_from_result(usage: Usage, request_id: str, result: UsageResult, call: ApiCall) -> UsageOutcome:
    """What a result of a batch says about its use."""
    error: BillingError | None = None
    record: UsageRecord | None = None
    if result.problem is not None:
        error = error_from_problem(result.problem, result.problem.status, call.facts("rejected"))
        if isinstance(error, DuplicateRecordError | EventIdConflictError):
            record = error.existing
    elif result.record is not None:
        is_stored = result.outcome in ("recorded", "replayed")
        record = msgspec.structs.replace(result.record, outcome=result.outcome if is_stored else None)
    return UsageOutcome(usage=usage, outcome=result.outcome, request_id=request_id, record=record, error=error)
