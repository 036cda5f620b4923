"""All customers' statements of a month: what finance looks at when the month is over."""

import asyncio
from datetime import datetime

import msgspec

from billing_client.contract.decimals import difference, round_half_up
from billing_client.contract.periods import Grouping, Month, SummaryRequest
from billing_client.contract.statements.structs import StatementSummary, StatementTotal, VoidedTotal
from billing_client.contract.wire import Customer
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Connection
from billing_service.ledger.customers import list_customers
from billing_service.ledger.rollups import read_groups
from billing_service.ledger.statements.issued import latest_listed

PAGE_CUSTOMERS = 500


async def list_statements(
    connection: Connection,
    month: Month,
    currency: str,
    after: str,
    limit: int,
    *,
    only: str | None = None,
    seconds: float,
) -> tuple[list[StatementSummary[str]], str | None]:
    """A page of the customers with usage in a month, by customer id, and after which customer it ends; None at the end.

    Args:
        connection: Where to read.
        month: The month; its customer does not count.
        currency: The ISO 4217 code of the currency.
        after: After which customer the page begins; empty for the first page.
        limit: The most customers on a page.
        only: The one customer that the caller may see; None for all.
        seconds: After so much time a page ends, even if it is not full.
    """
    page: list[StatementSummary[str]] = []
    end = asyncio.get_running_loop().time() + seconds
    while customers := await list_customers(connection, after, PAGE_CUSTOMERS, only):
        for customer in customers:
            summary = await _summarize(connection, customer, month, currency)
            after = customer.id
            if summary is not None:
                page.append(summary)
            if len(page) == limit or asyncio.get_running_loop().time() > end:
                return page, after
    return page, None


async def month_total(
    connection: Connection, customer_id: str, start: datetime, end: datetime, minor_unit: int
) -> StatementTotal[str]:
    """What a customer's usage of some time adds up to."""
    everything = SummaryRequest(start, end, None, None, Grouping(False, None, "UTC"), ())
    rows = await read_groups(connection, customer_id, everything, 1)
    records, amount = (rows[0]["records"], rows[0]["amount"]) if rows else (0, "0")
    return StatementTotal(records=records, amount=amount, rounded=round_half_up(amount, minor_unit))


async def _summarize(
    connection: Connection, customer: Customer, month: Month, currency: str
) -> StatementSummary[str] | None:
    """What the list says of a customer; None without usage and without a statement."""
    total = await month_total(connection, customer.id, month.start, month.end, MINOR_UNITS[currency])
    issued = await latest_listed(connection, msgspec.structs.replace(month, customer_id=customer.id))
    if issued is None and not total.records:
        return None
    summary = StatementSummary(
        customer_id=customer.id,
        customer_name=customer.name,
        month=month.first.isoformat()[:7],
        timezone=month.timezone,
        currency=currency,
        status="provisional",
        total=total,
    )
    if issued is None:
        return summary
    records, amount = total.records - issued.total.records, difference(total.amount, issued.total.amount)
    is_same = (records, amount) == (0, "0")
    return msgspec.structs.replace(
        summary,
        status="issued",
        number=issued.number,
        digest=issued.digest,
        issued_at=issued.issued_at,
        total=issued.total,
        not_issued=None if is_same else VoidedTotal(records=records, amount=amount),
    )
