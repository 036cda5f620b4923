"""Decides what becomes of a record by the service's result: it is done, waits, is sent again, or is a dead letter."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec import Struct

from billing_client._batches import UsageResult, outcome_from_result
from billing_client._calls import ApiCall
from billing_client._encoding import encode_usage
from billing_client._errors import BillingError, UnexpectedResponseError, ValidationError
from billing_client._responses import error_from_problem
from billing_client._retries import RETRIED_STATUSES
from billing_client.contract.wire import ProblemDetails, UsageRecord
from billing_client.spooling.events import DeadEvent, DeliveredEvent, DuplicateEvent
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.outbox import Damaged, Pending
from billing_client.spooling.spool import damaged_row, decode_usage, read_time

DeliveryOutcome = Literal["delivered", "duplicate", "dead", "kept", "deferred"]


class Settlement(Struct, frozen=True):
    """A record that was sent, the service's result for it, and what becomes of it.

    One that is `kept` is sent again. So is one that is `deferred`, but others go first.
    """

    record: Pending
    result: UsageResult
    outcome: DeliveryOutcome


def outcome_of_delivery(
    record: Pending, result: UsageResult, options: RecorderOptions, seconds: float
) -> DeliveryOutcome:
    """What becomes of a record, `seconds` after its recorder was opened.

    The service answers `replayed` if it recorded this very record at an earlier attempt, which it knows by the
    Idempotency-Key. A proxy may remove that header; then it answers `duplicate`. That is still this record if it was
    sent before and the stored record occurred at the same microsecond.
    """
    problem = result.problem
    if result.outcome in ("recorded", "replayed"):
        return "delivered"
    if problem is None or problem.status in RETRIED_STATUSES or problem.status >= 500:
        return "kept"
    if _is_early(problem) or (has_unknown_customer(result) and options.unknown_customer != "dead"):
        return "deferred" if _may_wait(record, timedelta(seconds=options.defer_timeout), seconds) else "dead"
    if result.outcome == "duplicate" and problem.existing is not None:
        return "delivered" if _is_same_call(record, problem.existing) else "duplicate"
    return "dead"


def has_unknown_customer(result: UsageResult) -> bool:
    """Whether usage is refused because the service does not know its customer."""
    return result.problem is not None and result.problem.code == "customer_not_found"


def _is_early(problem: ProblemDetails[Decimal]) -> bool:
    """Whether usage is refused only because it occurs in the future: a fault that mends itself.

    The client sends no time that is not valid, so the time can have no other fault.
    """
    faults = {error.pointer for error in problem.errors or []}
    return problem.code == "validation_error" and faults == {"/occurredAt"}


def _may_wait(record: Pending, longest: timedelta, seconds: float) -> bool:
    """Whether a record was recorded so short ago that it may wait for what mends its fault.

    A clock that was days slow and is set right makes all older than it is, and so does a service that was away: so the
    recorder, too, has had as long as that.

    The producer's clock timed both the record and its usage. So usage that occurs later than that by more than it would
    wait is no fault of a clock, but of its caller: it may be of the year 2999.
    """
    recorded_at, usage = read_time(record.recorded_at), decode_usage(record.usage.body)
    if recorded_at is None or usage is None:
        return False
    is_in_time = seconds < longest.total_seconds() or datetime.now(UTC) - recorded_at < longest
    return is_in_time and (usage.occurred_at is None or usage.occurred_at - recorded_at < longest)


def _is_same_call(record: Pending, existing: UsageRecord[Decimal]) -> bool:
    usage = decode_usage(record.usage.body)
    return record.attempts > 1 and usage is not None and existing.occurred_at == usage.occurred_at


def event_of(settlement: Settlement, call: ApiCall) -> DeliveredEvent | DuplicateEvent | DeadEvent | None:
    """What the hook is told about a record; None if the record is kept or deferred."""
    record, result, outcome = settlement.record, settlement.result, settlement.outcome
    usage = decode_usage(record.usage.body)
    if usage is None:
        return _event_of_no_usage(record, result.problem) if outcome == "dead" and result.problem else None
    answered = outcome_from_result(usage, record.usage.request_id, result, call)
    facts: dict[str, Any] = {
        "usage": usage,
        "request_id": record.usage.request_id,
        "idempotency_key": record.idempotency_key,
        "attempts": record.attempts,
    }
    if outcome == "dead" and answered.error is not None:
        return DeadEvent(error=answered.error, body=record.usage.body, **facts)
    if outcome == "duplicate" and answered.record is not None:
        return DuplicateEvent(record=answered.record, **facts)
    if outcome == "delivered" and answered.record is not None:
        stored = answered.record
        if result.outcome == "duplicate":
            stored = msgspec.structs.replace(stored, outcome="replayed")
        return DeliveredEvent(record=stored, **facts)
    return None


def event_of_damaged(row: Damaged) -> DeadEvent:
    """What the hook is told about a row of the spool that is no record, and is a dead letter now."""
    return _event_of_no_usage(row.record, damaged_row(row.fault))


def _event_of_no_usage(record: Pending, problem: ProblemDetails[Decimal]) -> DeadEvent:
    facts: dict[str, Any] = {
        "request_id": record.usage.request_id,
        "idempotency_key": record.idempotency_key,
        "attempts": record.attempts,
    }
    error = error_from_problem(problem, problem.status, facts | {"outcome": "rejected"})
    return DeadEvent(usage=decode_usage(record.usage.body), body=record.usage.body, error=error, **facts)


def error_of_kept(result: UsageResult, call: ApiCall) -> BillingError:
    """Why a record is sent again though its batch was answered."""
    if result.problem is not None:
        return error_from_problem(result.problem, result.problem.status, call.facts("rejected"))
    return UnexpectedResponseError(f"the service answered {result.outcome!r} to a record", **call.facts("unknown"))


def fault_of(record: Pending) -> str:
    """What is wrong with a record that no service could take; "" if nothing is."""
    usage = decode_usage(record.usage.body)
    if usage is None:
        return "its body is not the JSON of usage"
    try:
        encoded = encode_usage(usage)
    except ValidationError as error:
        return f"its body is no valid usage: {error.detail}"
    return "" if encoded.request_id == record.usage.request_id else "its request id is not that of its body"


def damaged(fault: str) -> UsageResult:
    """The result of a record with such a fault."""
    return UsageResult(outcome="rejected", problem=damaged_row(fault))


def refusal(error: BillingError) -> UsageResult:
    """The result of a record that was sent alone and whose whole batch was refused."""
    status = error.status or 400
    problem: ProblemDetails[Decimal] = ProblemDetails(
        type="about:blank",
        title="Refused",
        status=status,
        detail=error.detail,
        code=error.code or "validation_error",
    )
    return UsageResult(outcome="rejected", problem=problem)
