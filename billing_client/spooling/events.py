"""What a recorder tells its `on_event` hook."""

from typing import Literal, TypeAlias

from msgspec import Struct

from billing_client._errors import BillingError
from billing_client._records import Usage, UsageRecord


class AttemptEvent(Struct, frozen=True, kw_only=True):
    """A batch was sent, or could not be sent.

    Attributes:
        records: How many records the batch holds.
        attempts: How often the first of them was sent, this attempt included.
        error: Why these records are sent again; None if the batch was answered.
        wait: After how many seconds they are sent again.
    """

    records: int
    attempts: int
    error: BillingError | None = None
    wait: float = 0.0
    kind: Literal["attempt"] = "attempt"


class _RecordEvent(Struct, frozen=True, kw_only=True):
    usage: Usage
    request_id: str
    idempotency_key: str
    attempts: int


class DeliveredEvent(_RecordEvent, frozen=True, kw_only=True):
    """A use is stored, by this attempt or by an earlier one of the same call.

    Attributes:
        usage: The use, as it was recorded.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent.
        attempts: How often it was sent.
        record: The stored record.
    """

    record: UsageRecord
    kind: Literal["delivered"] = "delivered"


class DuplicateEvent(_RecordEvent, frozen=True, kw_only=True):
    """The same usage had been stored by another call; this one added nothing.

    Attributes:
        usage: The use, as it was recorded.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent.
        attempts: How often it was sent.
        record: The record that was stored before.
    """

    record: UsageRecord
    kind: Literal["duplicate"] = "duplicate"


class DeadEvent(_RecordEvent, frozen=True, kw_only=True):
    """The service refused a use. It is a dead letter now.

    Attributes:
        usage: The use, as it was recorded.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent.
        attempts: How often it was sent.
        error: Why it was refused.
    """

    error: BillingError
    kind: Literal["dead"] = "dead"


RecorderEvent: TypeAlias = AttemptEvent | DeliveredEvent | DuplicateEvent | DeadEvent
