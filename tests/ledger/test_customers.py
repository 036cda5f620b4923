"""Customers, beside what their endpoints say."""

from datetime import UTC, datetime, timedelta

import asyncpg

from billing_client.contract.wire import NewCustomer
from billing_service.ledger.customers import create_customer, rename_customer

NOW = datetime(2026, 11, 1, tzinfo=UTC)


async def test_a_retry_is_one_also_after_a_rename_by_a_slower_clock(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    """As after a failover to a standby whose clock is behind."""
    created = (connection, "acme", NewCustomer(name="Acme"), "a call", None, NOW)
    await create_customer(*created)
    await rename_customer(connection, "acme", "Renamed", NOW - timedelta(minutes=15))
    assert (await create_customer(*created)).is_replay
