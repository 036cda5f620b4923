"""The audit log: a line for each void, issued statement, API key that is created or revoked, and sign-in, at every log
level."""

import logging

_log = logging.getLogger("billing_service.audit")
_log.setLevel(logging.INFO)  # whatever BILLING_LOG_LEVEL leaves out of the log, this stays in it


def usage_voided(request_id: str, customer_id: str, by: str) -> None:
    """Log that a record was voided.

    Args:
        request_id: The record's request id.
        customer_id: The record's customer.
        by: The name of the caller's API key; `anonymous` without one.
    """
    _log.info("usage voided", extra={"request_id": request_id, "customer_id": customer_id, "by": by})


def statement_issued(customer_id: str, number: int, month: str, timezone: str, by: str | None) -> None:
    """Log that a statement was issued.

    Args:
        customer_id: The customer that is billed.
        number: The number of the statement.
        month: Its month, such as 2026-01.
        timezone: The time zone of the month.
        by: The name of the caller's API key; None without one.
    """
    fields = {"customer_id": customer_id, "number": number, "month": month, "timezone": timezone}
    _log.info("statement issued", extra=fields | {"by": by or "anonymous"})


def key_created(key_id: str, scopes: tuple[str, ...], customer_id: str | None, by: str) -> None:
    """Log that an API key was created.

    Args:
        key_id: The key's name: `bk_` and its id.
        scopes: What it allows.
        customer_id: The customer it is bound to; None for all customers.
        by: The name of the caller's API key, or who created it.
    """
    fields = {"key_id": key_id, "scopes": list(scopes), "customer_id": customer_id, "by": by}
    _log.info("API key created", extra=fields)


def key_revoked(key_id: str, customer_id: str | None, by: str) -> None:
    """Log that an API key was revoked. The arguments are those of `key_created`."""
    _log.info("API key revoked", extra={"key_id": key_id, "customer_id": customer_id, "by": by})


def signed_in(key_id: str, address: str) -> None:
    """Log that somebody signed in to the console.

    Args:
        key_id: The key's name: `bk_` and its id.
        address: The client's address.
    """
    _log.info("signed in to the console", extra={"key_id": key_id, "address": address})
