"""Records any number of uses in batches: bounded memory, and an outcome for each use, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from decimal import Decimal
from hashlib import sha256
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client._calls import ApiCall
from billing_client._encoding import check_usage, encode_into
from billing_client._errors import (
    BillingError,
    DuplicateRecordError,
    EventIdConflictError,
    UnexpectedResponseError,
    ValidationError,
)
from billing_client._records import Usage, UsageRecord
from billing_client._responses import error_from_problem, is_about_other_usage, is_as_sent, unexpected
from billing_client._transport import Transport
from billing_client.contract.decimals import require_numbers
from billing_client.contract.wire import MAX_BATCH_RECORDS, BatchResult, NewUsage, Outcome

TURNS_TO_SEND = 2  # of the event loop: the call begins, and aiohttp's task writes its body
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


class _Batch:
    """Uses to send in one call, of which the body grows with each, and those that are not valid."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._bodies = bytearray()
        self.usages: list[Usage] = []
        self.sent: list[NewUsage[str]] = []
        self.request_ids: list[str] = []
        self.refused: list[tuple[int, Usage, ValidationError]] = []  # each with its place

    def add(self, usage: Usage) -> bool:
        """Add a use at the end; whether the batch is full then."""
        try:
            new, request_id = check_usage(usage)
        except ValidationError as error:
            self.refused.append((len(self), usage, error))
        else:
            encode_into(new, self._bodies, -1)  # half the time of bodies by themselves, which are joined
            self._bodies += b","
            self.usages.append(usage)
            self.sent.append(new)
            self.request_ids.append(request_id)
        return len(self.usages) + len(self.refused) == self._batch_size or len(self._bodies) >= BATCH_BYTES

    def __len__(self) -> int:
        return len(self.usages) + len(self.refused)

    def bodies(self) -> bytes:
        """The JSON of the uses that are valid, with commas between them."""
        return bytes(self._bodies[:-1])


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
                for _ in range(TURNS_TO_SEND):  # before the results of another, which may be there, are handed out
                    await asyncio.sleep(0)
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


async def _split(usages: Iterable[Usage] | AsyncIterable[Usage], batch_size: int) -> AsyncGenerator[_Batch, None]:
    """Batches of at most `batch_size` uses and about BATCH_BYTES, each as soon as it is full."""
    batch = _Batch(batch_size)
    if isinstance(usages, AsyncIterable):
        async for usage in usages:
            if batch.add(usage):
                yield batch
                batch = _Batch(batch_size)
    else:
        for usage in usages:
            if batch.add(usage):
                yield batch
                batch = _Batch(batch_size)
    if len(batch):
        yield batch


async def _record_batch(transport: Transport, batch: _Batch, dry_run: bool, repeatable: bool) -> list[UsageOutcome]:
    outcomes: list[UsageOutcome] = []
    if batch.usages:
        bodies = batch.bodies()
        call = batch_call(bodies, _key_of(bodies) if repeatable else str(uuid4()), dry_run)
        results = await send_batch(transport, call, batch.request_ids, batch.sent)
        told = {result.outcome for result in results}
        if told & {"recorded", "replayed"} if dry_run else "recordable" in told:
            detail = f"the service answered as if the call were {'no' if dry_run else 'a'} dry run"
            raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))
        answered = zip(batch.usages, batch.request_ids, results, strict=True)
        outcomes = [outcome_from_result(usage, request_id, result, call) for usage, request_id, result in answered]
    for place, usage, error in batch.refused:
        outcomes.insert(place, UsageOutcome(usage=usage, outcome="rejected", request_id=None, record=None, error=error))
    return outcomes


def _key_of(bodies: bytes) -> str:
    """The Idempotency-Key of a repeatable batch: the same uses, the same key."""
    return f"batch-{sha256(bodies).hexdigest()[:32]}"


def batch_call(bodies: bytes, idempotency_key: str, dry_run: bool = False) -> ApiCall:
    """The call that records uses, whose JSON is given with commas between them."""
    body = b'{"records":[%b]}' % bodies
    return ApiCall("POST", "/usage/batch", body, idempotency_key, query={"dryRun": "true"} if dry_run else {})


async def send_batch(
    transport: Transport, call: ApiCall, request_ids: Sequence[str], sent: Sequence[NewUsage[str] | bytes]
) -> list[UsageResult]:
    """Send the call that records some uses, and give a result for each, in order. Raises BillingError.

    Args:
        transport: What sends it.
        call: The call.
        request_ids: The request ids of the uses.
        sent: What was sent of each, or its JSON.
    """
    response = await transport.send(call)
    try:
        results = _RESULTS.decode(response.body).results
        if len(results) == len(request_ids) and all(map(_is_stored_as_sent, results, request_ids, sent)):
            return results
        require_numbers([result.problem for result in results if result.problem is not None])
    except (ValueError, RecursionError) as error:
        raise unexpected(f"the response is not what was asked for: {error}", response, call) from error
    if len(results) != len(request_ids) or not all(map(_is_complete, results)):
        detail = (
            f"the service answered {len(results)} results for {len(request_ids)} records, or some without their members"
        )
        raise unexpected(detail, response, call)
    if any(map(_is_of_other_usage, results, request_ids, sent)):
        raise unexpected("the service answered a result of another record than was sent", response, call)
    return results


def _is_stored_as_sent(result: UsageResult, request_id: str, sent: NewUsage[str] | bytes) -> bool:
    """Whether a result, as almost all do, says that the use is stored, with its record, and nothing else."""
    record = result.record
    return (
        record is not None
        and result.problem is None
        and result.outcome not in _REFUSED
        and record.request_id == request_id
        and is_as_sent(record, sent)
    )


def _is_complete(result: UsageResult) -> bool:
    """Whether a result has the one member that goes with its outcome, and an outcome that can be."""
    problem = result.problem
    if problem is None:
        return result.record is not None and result.outcome not in _REFUSED
    if result.record is not None or result.outcome not in _REFUSED or not 400 <= problem.status <= 599:
        return False
    return problem.existing is not None or result.outcome == "rejected"


def _is_of_other_usage(result: UsageResult, request_id: str, sent: NewUsage[str] | bytes) -> bool:
    if result.record is not None:
        return result.record.request_id != request_id or not is_as_sent(result.record, sent)
    if result.problem is None or is_about_other_usage(result.problem, request_id):
        return True
    existing = result.problem.existing
    return result.outcome == "duplicate" and existing is not None and not is_as_sent(existing, sent)


def outcome_from_result(usage: Usage, request_id: str, result: UsageResult, call: ApiCall) -> UsageOutcome:
    """What a result of a batch says about its use."""
    error: BillingError | None = None
    record: UsageRecord | None = None
    if result.problem is not None:
        error = error_from_problem(result.problem, result.problem.status, call.facts("rejected"))
        if isinstance(error, DuplicateRecordError | EventIdConflictError):
            record = error.existing
    elif result.record is not None:
        record = result.record
        if result.outcome == "recorded" or result.outcome == "replayed":
            msgspec.structs.force_setattr(
                record, "outcome", result.outcome
            )  # nobody else has it yet; a copy takes longer
    return UsageOutcome(usage=usage, outcome=result.outcome, request_id=request_id, record=record, error=error)
