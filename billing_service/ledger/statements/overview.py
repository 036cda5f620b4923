"""All customers' statements of a month: what finance looks at when the month is over."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from billing_client.contract.decimals import difference, round_half_up
from billing_client.contract.periods import Grouping, Month, SummaryRequest
from billing_client.contract.statements.structs import IssuedStatement, StatementSummary, StatementTotal, VoidedTotal
from billing_client.contract.wire import Customer
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.customers import list_customers
from billing_service.ledger.periods import BUCKETS, ceil, floor
from billing_service.ledger.rollups import read_groups
from billing_service.ledger.statements.issued import latest_of_customers

_QUERIES = load_queries("statements")
PAGE_CUSTOMERS = 500  # that are looked at together, at most


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
    size = limit  # all that is wanted, where each customer has usage; more, where few have
    while customers := await list_customers(connection, after, size, only):
        size = min(2 * size, PAGE_CUSTOMERS)
        for summary in await _summarize(connection, customers, month, currency):
            if len(page) == limit:
                return page, page[-1].customer_id
            page.append(summary)
        after = customers[-1].id
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
    return _total(records, amount, minor_unit)


async def _month_totals(
    connection: Connection, customer_ids: Sequence[str], month: Month, minor_unit: int
) -> dict[str, StatementTotal[str]]:
    """What the usage of each of these customers adds up to in a month; those without usage are left out."""
    large, small = BUCKETS
    if floor(month.start, small) != month.start or floor(month.end, small) != month.end:  # single records count, too
        every = {each: await month_total(connection, each, month.start, month.end, minor_unit) for each in customer_ids}
        return {customer_id: each for customer_id, each in every.items() if each.records}
    spans = (ceil(month.start, large), floor(month.end, large), month.start, month.end)
    rows = await connection.fetch(_QUERIES["totals_of_month"], customer_ids, *spans)
    return {row["customer_id"]: _total(row["records"], row["amount"], minor_unit) for row in rows}


def _total(records: int, amount: str, minor_unit: int) -> StatementTotal[str]:
    return StatementTotal(records=records, amount=amount, rounded=round_half_up(amount, minor_unit))


async def _summarize(
    connection: Connection, customers: Sequence[Customer], month: Month, currency: str
) -> list[StatementSummary[str]]:
    """What the list says of these customers; those without usage and without a statement are left out."""
    ids = [customer.id for customer in customers]
    totals = await _month_totals(connection, ids, month, MINOR_UNITS[currency])
    issued = await latest_of_customers(connection, ids, month)
    nothing = _total(0, "0", MINOR_UNITS[currency])
    return [
        _summary(customer, month, currency, totals.get(customer.id, nothing), issued.get(customer.id))
        for customer in customers
        if customer.id in totals or customer.id in issued
    ]


def _summary(
    customer: Customer,
    month: Month,
    currency: str,
    total: StatementTotal[str],
    issued: IssuedStatement[str] | None,
) -> StatementSummary[str]:
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
        signature=issued.signature,
        total=issued.total,
        not_issued=None if is_same else VoidedTotal(records=records, amount=amount),
    )
