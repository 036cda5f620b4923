"""The async client of the billing service: `BillingSystemClient`, its records and its errors."""

from billing_client._batches import UsageOutcome
from billing_client._client import BillingSystemClient
from billing_client._errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    CustomerExistsError,
    CustomerNotFoundError,
    DeadlineExceededError,
    DuplicateRecordError,
    EventIdConflictError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    ResponseError,
    StatementNotFoundError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
    UsageNotFoundError,
    ValidationError,
)
from billing_client._records import CustomerSummary, Statement, Summary, Usage, UsageRecord, VoidedUsage
from billing_client._version import __version__
from billing_client.wire import Customer, FieldConflict, FieldError

__all__ = [
    "AuthenticationError",
    "BillingError",
    "BillingSystemClient",
    "ConfigurationError",
    "Customer",
    "CustomerExistsError",
    "CustomerNotFoundError",
    "CustomerSummary",
    "DeadlineExceededError",
    "DuplicateRecordError",
    "EventIdConflictError",
    "FieldConflict",
    "FieldError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitedError",
    "ResponseError",
    "Statement",
    "StatementNotFoundError",
    "Summary",
    "TransportError",
    "UnavailableError",
    "UnexpectedResponseError",
    "Usage",
    "UsageNotFoundError",
    "UsageOutcome",
    "UsageRecord",
    "ValidationError",
    "VoidedUsage",
    "__version__",
]
