"""Issuing the statements of all customers: a part at a time, and begun anew wherever it was stopped."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from billing_client.contract.periods import read_month
from billing_service.database.pool import Database
from billing_service.ledger.statements.issuing import IssueOrder
from billing_service.ledger.statements.issuing_all import IssuedPart, issue_all
from billing_service.settings import Settings
from tests.calls import given_customer
from tests.statements import record

CUSTOMERS = [f"c{number}" for number in range(5)]
ORDER = IssueOrder(read_month("", "2026-01", "UTC", "/"), "USD", None, datetime.now(UTC), lambda statement: statement)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


async def parts_from(database: Database, after: str, most: int) -> list[IssuedPart]:
    """What at most so many calls have done, none of which has any time."""
    parts: list[IssuedPart] = []
    while len(parts) < most and (not parts or parts[-1].after is not None):
        parts.append(await issue_all(database, ORDER, parts[-1].after or "" if parts else after, until=0.0))
    return parts


async def test_each_call_does_something_and_none_is_issued_twice(
    http: aiohttp.ClientSession, database: Database
) -> None:
    for customer in CUSTOMERS:
        await given_customer(http, customer)
        await record(http, "1", "2026-01-05T00:00:00Z", customerId=customer)
    stopped = await parts_from(database, "", 2)
    assert [[each.customer_id for each in part.issued] for part in stopped] == [["c0"], ["c1"]]
    assert [part.after for part in stopped] == ["c0", "c1"]
    anew = await parts_from(database, "", 10)
    assert [part.after for part in anew] == [*CUSTOMERS, None]
    assert sum(part.unchanged for part in anew) == 2
    issued = [each for part in stopped + anew for each in part.issued]
    assert [(each.customer_id, each.number) for each in issued] == [(customer, 1) for customer in CUSTOMERS]
    on = await parts_from(database, "c2", 10)  # where a call ended
    assert sum(part.unchanged for part in on) == 2
    assert not any(part.issued or part.failed or part.preparing for part in on)
