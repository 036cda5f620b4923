"""The async client of the billing service: `BillingSystemClient`, its records and its errors.

A name is imported from its module when it is first used (PEP 562). So what needs only the shared contract, the service
for one, loads neither aiohttp nor sqlite3.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from billing_client._version import __version__

if TYPE_CHECKING:
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
        RecorderClosedError,
        ResponseError,
        SpoolCorruptError,
        SpoolDiskFullError,
        SpoolError,
        SpoolForkedError,
        SpoolFullError,
        SpoolInUseError,
        StatementNotFoundError,
        TransportError,
        UnavailableError,
        UnexpectedResponseError,
        UsageNotFoundError,
        ValidationError,
    )
    from billing_client._events import ServiceEvent
    from billing_client._records import CustomerSummary, Statement, Summary, Usage, UsageRecord, VoidedUsage
    from billing_client.contract.statements.checks import StatementCheck, verify_statement
    from billing_client.contract.statements.digests import check_inclusion
    from billing_client.contract.statements.structs import InclusionProof
    from billing_client.contract.wire import Customer, FieldConflict, FieldError, Refusal, RefusalCount
    from billing_client.spooling.events import AttemptEvent, DeadEvent, DeliveredEvent, DuplicateEvent, RecorderEvent
    from billing_client.spooling.recorder import RecorderCounts, UsageRecorder
    from billing_client.spooling.spool import DeadLetter, Spool, SpoolStatus

__all__ = [
    "AttemptEvent",
    "AuthenticationError",
    "BillingError",
    "BillingSystemClient",
    "ConfigurationError",
    "Customer",
    "CustomerExistsError",
    "CustomerNotFoundError",
    "CustomerSummary",
    "DeadEvent",
    "DeadLetter",
    "DeadlineExceededError",
    "DeliveredEvent",
    "DuplicateEvent",
    "DuplicateRecordError",
    "EventIdConflictError",
    "FieldConflict",
    "FieldError",
    "InclusionProof",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RecorderClosedError",
    "RecorderCounts",
    "RecorderEvent",
    "Refusal",
    "RefusalCount",
    "ResponseError",
    "ServiceEvent",
    "Spool",
    "SpoolCorruptError",
    "SpoolDiskFullError",
    "SpoolError",
    "SpoolForkedError",
    "SpoolFullError",
    "SpoolInUseError",
    "SpoolStatus",
    "Statement",
    "StatementCheck",
    "StatementNotFoundError",
    "Summary",
    "TransportError",
    "UnavailableError",
    "UnexpectedResponseError",
    "Usage",
    "UsageNotFoundError",
    "UsageOutcome",
    "UsageRecord",
    "UsageRecorder",
    "ValidationError",
    "VoidedUsage",
    "__version__",
    "check_inclusion",
    "verify_statement",
]

# Every public error is in `_errors`; the module of each other name is named here.
_MODULES = {
    "_batches": {"UsageOutcome"},
    "_client": {"BillingSystemClient"},
    "_events": {"ServiceEvent"},
    "_records": {"CustomerSummary", "Statement", "Summary", "Usage", "UsageRecord", "VoidedUsage"},
    "contract.statements.checks": {"StatementCheck", "verify_statement"},
    "contract.statements.digests": {"check_inclusion"},
    "contract.statements.structs": {"InclusionProof"},
    "contract.wire": {"Customer", "FieldConflict", "FieldError", "Refusal", "RefusalCount"},
    "spooling.events": {"AttemptEvent", "DeadEvent", "DeliveredEvent", "DuplicateEvent", "RecorderEvent"},
    "spooling.recorder": {"RecorderCounts", "UsageRecorder"},
    "spooling.spool": {"DeadLetter", "Spool", "SpoolStatus"},
}

if not TYPE_CHECKING:  # a type checker that saw it would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = next((module for module, names in _MODULES.items() if name in names), "_errors")
        value = getattr(import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
