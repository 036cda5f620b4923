"""Every error the client raises:

BillingError
├── ConfigurationError          a setting of the client is missing or bad (also a ValueError)
├── ValidationError             the input is not valid: refused by the service, or by the client before it was sent
├── SpoolError                  the spool of a recorder cannot be used
│   ├── SpoolFullError          it holds as much as it may
│   ├── SpoolDiskFullError      its disk is full
│   ├── SpoolInUseError         another recorder uses it, in this process or another
│   ├── SpoolForkedError        its recorder belongs to the process that this one was forked from
│   ├── RecorderClosedError     its recorder was closed (also a RuntimeError)
│   └── SpoolCorruptError       the file is damaged
├── TransportError              no usable response came
│   └── DeadlineExceededError   the deadline over all attempts passed
└── ResponseError               the service answered with something other than what was asked for
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
    └── UnexpectedResponseError a response outside the contract: a redirect, 500, not JSON
"""

from typing import Any, Literal

from billing_client._records import UsageRecord
from billing_client.contract.wire import FieldConflict, FieldError, printable

CallOutcome = Literal["not_sent", "rejected", "unknown"]


class BillingError(Exception):
    """The base of all errors of the client.

    Attributes:
        detail: What went wrong, in a sentence.
        outcome: What became of the call. `not_sent`: the service never saw it. `rejected`: the service did nothing.
            `unknown`: it may have done its work; call again with the same `idempotency_key` or event id.
        status: The HTTP status of the last response, if there was one.
        code: The code of the problem that the service answered, such as `customer_not_found`, if it answered one.
        request_id: The request id of the usage that the call was about, if it was about one.
        attempts: How many requests were made.
        idempotency_key: The Idempotency-Key of the call, if it had one.
        retry_after: How many seconds the last response asked to wait; 0 if it did not ask.
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
        detail = printable(detail)  # it may be the words of a server, and is written to logs and terminals
        super().__init__(detail)
        self.detail = detail
        self.outcome: CallOutcome = outcome
        self.status = status
        self.code = None if code is None else printable(code)
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
    """A setting of the client is missing or out of its bounds. Nothing was sent."""


class ValidationError(BillingError):
    """The input is not valid.

    Attributes:
        errors: Each fault: `pointer` (RFC 6901) and `message`.
        status: 400 or 415; None if the client refused the input before it was sent.
    """

    errors: list[FieldError]

    def __init__(self, detail: str, *, errors: list[FieldError] | None = None, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.errors = errors or []


class SpoolError(BillingError):
    """The spool of a recorder cannot be used. The call recorded nothing, and what the spool holds is untouched."""


class SpoolFullError(SpoolError):
    """The spool holds as many records or bytes as it may (`max_records`, `max_bytes`). Record again later."""


class SpoolDiskFullError(SpoolError):
    """The disk of the spool is full. The recorder works again when there is room."""


class SpoolInUseError(SpoolError):
    """Another recorder uses the spool, in this process or another. Give each recorder a spool of its own."""


class SpoolForkedError(SpoolError):
    """The recorder belongs to the process that this one was forked from. Make another, with a spool of its own."""


class RecorderClosedError(SpoolError, RuntimeError):
    """The recorder was closed before the call, or while the call waited for room. Nothing of it was recorded."""


class SpoolCorruptError(SpoolError):
    """The spool's file is damaged, or is no SQLite database. It is left as it is; put it aside to begin a new one."""


class TransportError(BillingError):
    """No usable response came. `__cause__` is the error of aiohttp or of the operating system."""


class DeadlineExceededError(TransportError):
    """The deadline of the call (`timeout`) passed before an attempt succeeded."""


class ResponseError(BillingError):
    """The service answered with something other than what was asked for."""


class AuthenticationError(ResponseError):
    """401: the API key is missing, unknown, expired or revoked."""


class PermissionDeniedError(ResponseError):
    """403: the API key lacks the scope, or is bound to another customer."""


class NotFoundError(ResponseError):
    """404: there is nothing at this address. Is `base_url` that of a billing service?"""


class CustomerNotFoundError(NotFoundError):
    """404: the service does not know the customer."""


class UsageNotFoundError(NotFoundError):
    """404: the customer has no such usage record."""


class StatementNotFoundError(NotFoundError):
    """404: no statement with this digest was issued."""


class DuplicateRecordError(ResponseError):
    """409: another call recorded the same usage before.

    Attributes:
        existing: The stored record.
    """

    existing: UsageRecord


class CustomerExistsError(ResponseError):
    """409: the customer id is taken."""


class EventIdConflictError(ResponseError):
    """422: the event id is recorded with other data. Correct usage under a new event id.

    Attributes:
        existing: The stored record.
        conflicts: The fields that differ: `field`, `submitted`, and `recorded`, which is None if the API key may not
            read usage.
    """

    existing: UsageRecord
    conflicts: list[FieldConflict]


class PayloadTooLargeError(ResponseError):
    """413: the body is larger than the service accepts. Send smaller batches."""


class RateLimitedError(ResponseError):
    """429: a rate limit is used up, and still was at the last attempt. Wait for `retry_after` seconds."""


class UnavailableError(ResponseError):
    """408, 502, 503, 504: the service was overloaded or away, and still was at the last attempt."""


class UnexpectedResponseError(ResponseError):
    """The response is outside the contract: a redirect, a 500, not what was asked for, or about other usage."""
