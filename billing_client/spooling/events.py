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

    usage: Usage
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

    usage: Usage
    record: UsageRecord
    kind: Literal["duplicate"] = "duplicate"


class DeadEvent(_RecordEvent, frozen=True, kw_only=True):
    """The service refused a use, or a row of the spool is no use. It is a dead letter now.

    Attributes:
        usage: The use, as it was recorded; None if `body` is not the JSON of one.
        body: The JSON of the record, as it was sent or found.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent.
        attempts: How often it was sent.
        error: Why it was refused.
    """

    usage: Usage | None
    body: bytes
    error: BillingError
    kind: Literal["dead"] = "dead"


RecorderEvent: TypeAlias = AttemptEvent | DeliveredEvent | DuplicateEvent | DeadEvent
