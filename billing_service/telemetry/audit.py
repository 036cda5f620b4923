"""Lines of the log for what changes a bill or who may: each void, each API key that is created or revoked."""

import logging

_log = logging.getLogger("billing_service.audit")


def usage_voided(request_id: str, customer_id: str, by: str) -> None:
    """Say that a record was voided, of which customer and by which API key (`anonymous` in development)."""
    _log.info("usage voided", extra={"request_id": request_id, "customer_id": customer_id, "by": by})


def key_created(key_id: str, scopes: tuple[str, ...], customer_id: str | None, by: str) -> None:
    """Say that an API key was created, with which scopes, for which customer (None for all) and by whom."""
    facts = {"key_id": key_id, "scopes": list(scopes), "customer_id": customer_id, "by": by}
    _log.info("API key created", extra=facts)


def key_revoked(key_id: str, customer_id: str | None, by: str) -> None:
    """Say that an API key was revoked, of which customer (None for all) and by whom."""
    _log.info("API key revoked", extra={"key_id": key_id, "customer_id": customer_id, "by": by})
