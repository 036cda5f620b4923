"""Every error the client raises:

BillingError
├── ConfigurationError          a setting of the client is bad (also a ValueError)
├── ValidationError             the input is not valid: refused by the service, or here before it was sent
├── SpoolError                  the spool of a recorder cannot be used
│   ├── SpoolFullError          it holds as much as it may
│   ├── SpoolDiskFullError      the disk has no room for it
│   ├── SpoolInUseError         another recorder holds it, in this process or another
│   ├── SpoolForkedError        its recorder was made by the process that this one was forked from
│   └── SpoolCorruptError       the file is damaged
├── TransportError              no usable answer came
│   └── DeadlineExceededError   the deadline over all attempts passed
└── ResponseError               the service answered, and not with what was asked for
    ├── AuthenticationError     401
    ├── PermissionDeniedError   403
    ├── NotFoundError           404
    │   ├── CustomerNotFoundError
    │   ├── UsageNotFoundError
    │   └── StatementNotFoundError
    ├── DuplicateRecordError    409, `existing` is the stored record
    ├── CustomerExistsError     409
    ├── EventIdConflictError    422, `existing` and `conflicts`
    ├── PayloadTooLargeError    413
    ├── RateLimitedError        429, after the last retry
    ├── UnavailableError        408, 502, 503, 504, after the last retry
    └── UnexpectedResponseError an answer outside the contract: a redirect, 500, not JSON
"""

from typing import Any, Literal

from billing_client._records import UsageRecord
from billing_client.contract.wire import FieldConflict, FieldError

CallOutcome = Literal["not_sent", "rejected", "unknown"]


class BillingError(Exception):
    """What all errors of the client are.

    `outcome` says what became of the call: `not_sent` (the service never saw it), `rejected` (it did nothing) or
    `unknown` (it may have done its work: call again with the same `idempotency_key`, or the same event id).
    `status`, `code` and `request_id` are None where there is none; `attempts` counts the requests made. `retry_after`
    is the seconds that the last answer asked to wait, 0 where it did not.
    """

    def __init__(
        self,
        detail: str,
        *,
        outcome: CallOutcome = "not_sent",
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        idempotency_key: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.outcome: CallOutcome = outcome
        self.status = status
        self.code = code
        self.request_id = request_id
        self.attempts = attempts
        self.idempotency_key = idempotency_key
        self.retry_after = 0.0

    def __str__(self) -> str:
        facts = [f"status {self.status}"] if self.status is not None else []
        facts += [f"code {self.code}"] if self.code is not None else []
        facts += [f"attempts {self.attempts}", f"outcome {self.outcome}"]
        return f"{self.detail} ({', '.join(facts)})"


class ConfigurationError(BillingError, ValueError):
    """A setting of the client is missing or bad."""


class ValidationError(BillingError):
    """The input is not valid; `errors` names each fault. `status` is None where it was refused before it was sent."""

    errors: list[FieldError]

    def __init__(self, detail: str, *, errors: list[FieldError] | None = None, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.errors = errors or []


class SpoolError(BillingError):
    """The spool of a recorder cannot be used. Nothing was recorded, and what it holds is untouched."""


class SpoolFullError(SpoolError):
    """The spool holds as many records or bytes as it may."""


class SpoolDiskFullError(SpoolError):
    """The disk has no room for the spool; it works again when there is."""


class SpoolInUseError(SpoolError):
    """Another recorder holds the spool, in this process or another."""


class SpoolForkedError(SpoolError):
    """The recorder was made by the process that this one was forked from, and works only there."""


class SpoolCorruptError(SpoolError):
    """The spool's file is damaged. It is left as it is."""


class TransportError(BillingError):
    """No usable answer came; the cause is the network library's own error."""


class DeadlineExceededError(TransportError):
    """The deadline over all attempts passed."""


class ResponseError(BillingError):
    """The service answered, and not with what was asked for."""


class AuthenticationError(ResponseError):
    """The API key is missing or not valid."""


class PermissionDeniedError(ResponseError):
    """The API key does not permit this."""


class NotFoundError(ResponseError):
    """There is nothing at this address."""


class CustomerNotFoundError(NotFoundError):
    """There is no such customer."""


class UsageNotFoundError(NotFoundError):
    """There is no such usage record."""


class StatementNotFoundError(NotFoundError):
    """No statement with this digest was issued."""


class DuplicateRecordError(ResponseError):
    """The usage is recorded already, by another call; `existing` is the stored record."""

    existing: UsageRecord


class CustomerExistsError(ResponseError):
    """The customer id is taken."""


class EventIdConflictError(ResponseError):
    """The event id is recorded with other data: `existing` is the stored record, `conflicts` the difference."""

    existing: UsageRecord
    conflicts: list[FieldConflict]


class PayloadTooLargeError(ResponseError):
    """The body was larger than the service takes."""


class RateLimitedError(ResponseError):
    """The rate was exceeded, and still was at the last attempt."""


class UnavailableError(ResponseError):
    """The service was overloaded or away, and still was at the last attempt."""


class UnexpectedResponseError(ResponseError):
    """The answer is outside the contract."""
