"""What the answer to a batch means for each of its records."""

from decimal import Decimal
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from billing_client._batches import Result, outcome_of
from billing_client._errors import BillingError, UnexpectedResponseError
from billing_client._responses import RETRIED_STATUSES, error_of_problem
from billing_client._transport import Call
from billing_client.contract.wire import ProblemDetails, UsageRecord
from billing_client.spooling.events import DeadEvent, DeliveredEvent, DuplicateEvent
from billing_client.spooling.outbox import Pending
from billing_client.spooling.spool import usage_of

Verdict = Literal["delivered", "duplicate", "dead", "kept"]


def verdict_of(record: Pending, result: Result) -> Verdict:
    """What becomes of a record: one that is `kept` is sent again.

    The service answers `replayed` where an earlier attempt of this very record was recorded, for it knows the record
    by its Idempotency-Key. Where a proxy takes that header away it answers `duplicate`: still this record if it was
    sent before and the stored one occurred at the same microsecond.
    """
    problem = result.problem
    if result.outcome in ("recorded", "replayed"):
        return "delivered"
    if problem is None or problem.status in RETRIED_STATUSES or problem.status >= 500:
        return "kept"
    if result.outcome == "duplicate" and problem.existing is not None:
        return "delivered" if _is_own(record, problem.existing) else "duplicate"
    return "dead"


def event_of(
    record: Pending, verdict: Verdict, result: Result, call: Call
) -> DeliveredEvent | DuplicateEvent | DeadEvent | None:
    """What the hook is told of a record, None where it is kept."""
    outcome = outcome_of(usage_of(record.body), record.request_id, result, call)
    facts: dict[str, Any] = {
        "usage": outcome.usage,
        "request_id": record.request_id,
        "idempotency_key": record.idempotency_key,
        "attempts": record.attempts,
    }
    if verdict == "dead" and outcome.error is not None:
        return DeadEvent(error=outcome.error, **facts)
    if verdict == "duplicate" and outcome.record is not None:
        return DuplicateEvent(record=outcome.record, **facts)
    if verdict == "delivered" and outcome.record is not None:
        stored = outcome.record
        if result.outcome == "duplicate":
            stored = msgspec.structs.replace(stored, outcome="replayed")
        return DeliveredEvent(record=stored, **facts)
    return None


def error_of_kept(result: Result, call: Call) -> BillingError:
    """Why a record of an answered batch is sent again."""
    if result.problem is not None:
        return error_of_problem(result.problem, call.facts("rejected"))
    return UnexpectedResponseError(f"the service answered {result.outcome!r} to a record", **call.facts("unknown"))


def refusal(error: BillingError) -> Result:
    """The result of a record that was refused as a batch of its own."""
    status = error.status or 400
    return Result(
        outcome="rejected",
        problem=ProblemDetails(
            type="about:blank",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=error.detail,
            code=error.code or "validation_error",
        ),
    )


def _is_own(record: Pending, existing: UsageRecord[Decimal]) -> bool:
    return record.attempts > 1 and existing.occurred_at == usage_of(record.body).occurred_at
