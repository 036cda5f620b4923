"""API keys as an operator makes them, for tests that need one."""

from contextlib import suppress
from datetime import UTC, datetime

import asyncpg

from billing_client.contract.problems import ProblemError
from billing_client.contract.wire import NewCustomer
from billing_service.ledger.api_keys import Key, NewKey, Scope, create_key, revoke_key
from billing_service.ledger.customers import create_customer


async def given_key(
    database_url: str | None,
    *scopes: Scope,
    name: str = "a test",
    customer_id: str | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a key; the text that a caller sends."""
    _, text = await make_key(
        database_url, NewKey(name=name, scopes=scopes, customer_id=customer_id, expires_at=expires_at)
    )
    return text


async def make_key(database_url: str | None, new: NewKey) -> tuple[Key, str]:
    connection = await asyncpg.connect(database_url)
    try:
        return await create_key(connection, new)
    finally:
        await connection.close()


async def given_stored_customer(database_url: str | None, customer_id: str) -> None:
    """Add a customer without a service, unless it is there."""
    connection = await asyncpg.connect(database_url)
    try:
        customer = NewCustomer(name="Acme")
        with suppress(ProblemError):
            await create_customer(connection, customer_id, customer, None, None, datetime.now(UTC))
    finally:
        await connection.close()


async def revoke(database_url: str | None, text: str) -> None:
    """Revoke a key by its text."""
    connection = await asyncpg.connect(database_url)
    try:
        assert await revoke_key(connection, id_of(text)) is not None
    finally:
        await connection.close()


def id_of(text: str) -> str:
    return text.split("_")[1]


def bearer(text: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {text}"}
