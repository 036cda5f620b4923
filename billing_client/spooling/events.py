"""What a recorder tells its `on_event` hook."""

from typing import Literal, TypeAlias

from msgspec import Struct

from billing_client._errors import BillingError
from billing_client._records import Usage, UsageRecord


class AttemptEvent(Struct, frozen=True, kw_only=True):
    """A batch was sent, or could not be: `error` says why none of it is settled, None where it was answered.

    `attempts` is how often its first record was sent; after an error it is sent again in `wait` seconds.
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
    """A use is stored, as `record`, by this attempt or by one before it."""

    record: UsageRecord
    kind: Literal["delivered"] = "delivered"


class DuplicateEvent(_RecordEvent, frozen=True, kw_only=True):
    """The same usage was stored before, as `record`, by another call: this one added nothing."""

    record: UsageRecord
    kind: Literal["duplicate"] = "duplicate"


class DeadEvent(_RecordEvent, frozen=True, kw_only=True):
    """The service refused a use with `error`; it is a dead letter now."""

    error: BillingError
    kind: Literal["dead"] = "dead"


RecorderEvent: TypeAlias = AttemptEvent | DeliveredEvent | DuplicateEvent | DeadEvent
