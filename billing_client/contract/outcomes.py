"""What becomes of reported usage: one pure rule, which the service and the fake server of the client's tests share."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from billing_client.contract.problems import customer_not_found, duplicate_record, event_id_conflict
from billing_client.contract.wire import FieldConflict, Outcome, ProblemDetails, UsageRecord

_COMPARED = (("service", "service"), ("unitsConsumed", "units_consumed"), ("pricePerUnit", "price_per_unit"))
_DIMENSION = "dimensions."  # begins the field of a conflict


class Submission(Struct, frozen=True, gc=False):
    """One use as a call submitted it: the record it would become, and the `Idempotency-Key` of the call.

    The record's `recorded_by` says whose call it is.
    """

    record: UsageRecord[str]
    idempotency_key: str | None


class Decision(Struct, frozen=True, gc=False):
    """What became of a submission.

    `record` is the stored record (for a dry run, the one that would be stored); None where the customer is unknown.
    `conflicts` names the fields that differ, where the outcome is `conflict`.
    """

    outcome: Outcome
    record: UsageRecord[str] | None = None
    conflicts: list[FieldConflict] | None = None


UNKNOWN_CUSTOMER = Decision("rejected")


def submissions_of(
    records: Sequence[UsageRecord[str]], idempotency_key: str | None, seen: set[tuple[str, str]] | None = None
) -> list[Submission]:
    """The submissions of one call. Usage that the call repeats is a second report, not a retry of the call.

    Args:
        records: What the call submits, or a part of it.
        idempotency_key: The key of the call; None without one.
        seen: The (customer id, request id) pairs in the parts before; those of this part are added.
    """
    if idempotency_key is None:
        return [Submission(record, None) for record in records]
    seen = set() if seen is None else seen
    submissions = []
    for record in records:
        identity = (record.customer_id, record.request_id)
        submissions.append(Submission(record, None if identity in seen else idempotency_key))
        seen.add(identity)
    return submissions


def compare(submitted: Submission, stored: Submission) -> Decision:
    """What becomes of usage whose request id is stored already. Timestamps never count.

    It is a replay where the same caller sends it under the same key again: callers choose their keys by themselves, so
    the same key of another caller names another call.
    """
    conflicts = [
        FieldConflict(field=name, recorded=getattr(stored.record, field), submitted=getattr(submitted.record, field))
        for name, field in _COMPARED
        if getattr(stored.record, field) != getattr(submitted.record, field)
    ]
    if stored.record.dimensions != submitted.record.dimensions:
        conflicts += _differing_dimensions(stored.record.dimensions or {}, submitted.record.dimensions or {})
    if conflicts:
        return Decision("conflict", stored.record, conflicts)
    is_same_caller = submitted.record.recorded_by == stored.record.recorded_by
    if is_same_caller and submitted.idempotency_key is not None and submitted.idempotency_key == stored.idempotency_key:
        return Decision("replayed", stored.record)
    return Decision("duplicate", stored.record)


def _differing_dimensions(stored: Mapping[str, str], submitted: Mapping[str, str]) -> list[FieldConflict]:
    return [
        FieldConflict(field=_DIMENSION + name, recorded=stored.get(name, ""), submitted=submitted.get(name, ""))
        for name in sorted(stored.keys() | submitted.keys())
        if stored.get(name) != submitted.get(name)
    ]


def _without_what_is_stored(conflicts: list[FieldConflict]) -> list[FieldConflict]:
    """The fields that differ, as a caller may know them who may not read usage."""
    told = [
        FieldConflict(field=each.field, submitted=each.submitted)
        for each in conflicts
        if each.submitted or not each.field.startswith(_DIMENSION)
    ]
    return told + ([FieldConflict(field="dimensions", submitted="")] if len(told) < len(conflicts) else [])


def refusal_of(decision: Decision, record: UsageRecord[str], *, may_read: bool = True) -> ProblemDetails[str] | None:
    """The problem to answer a decision with; None where the usage is recorded.

    Args:
        decision: What became of the submission.
        record: The record that was submitted.
        may_read: Whether the caller may read usage. One who may not, and so could guess event ids, is told nothing
            that it did not send: `existing` is its own submission, with the time at which that was received, and
            `conflicts` names the fields that differ; dimensions that it did not send are `dimensions`, without a name.
    """
    existing = decision.record if may_read else record
    match decision.outcome:
        case "duplicate":
            return duplicate_record(existing, record)
        case "conflict":
            conflicts = decision.conflicts or []
            if not may_read:
                conflicts = _without_what_is_stored(conflicts)
            return event_id_conflict(existing, record, conflicts)
        case "rejected":
            return customer_not_found(record.customer_id, record.request_id)
    return None
