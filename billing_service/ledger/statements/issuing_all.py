"""Issues the statements of all customers, a part of them at a time."""

import asyncio
from typing import NamedTuple

import msgspec

from billing_client.contract.periods import Month
from billing_client.contract.problems import ProblemError
from billing_client.contract.statements.structs import IssuedStatement, IssueFailure, StatementProgress
from billing_service.currencies import MINOR_UNITS
from billing_service.database.pool import Database
from billing_service.ledger.customers import list_customers
from billing_service.ledger.statements.issued import latest_listed, overlapping_issue
from billing_service.ledger.statements.issuing import IssueOrder, issue, require_over
from billing_service.ledger.statements.overview import month_total

PAGE_CUSTOMERS = 100


class IssuedPart(NamedTuple):
    """What was issued, how many were left as they are, what could not be issued, what is being prepared, and after
    which customer to go on; None once all are done."""

    issued: list[IssuedStatement[str]]
    unchanged: int
    failed: list[IssueFailure]
    preparing: StatementProgress | None
    after: str | None


async def issue_all(database: Database, order: IssueOrder, after: str, until: float) -> IssuedPart:
    """Issue the statements of the customers after one, those with usage in the month, by customer id.

    Customers to whom a part of the month was issued in another time zone are left out. One whose statement cannot be
    issued keeps none of the others from theirs.

    Args:
        database: Where they are stored.
        order: What to issue; the customer of its month does not count.
        after: After which customer to begin; empty for the first.
        until: When to stop, on the event loop's clock. Something is done in any case.

    Raises:
        ProblemError: 409; the month is not over.
        DatabaseUnavailableError: The database is away. What was issued stays; begin anew, or where the last call ended.
    """
    require_over(order)
    part = IssuedPart([], 0, [], None, after)
    while customers := await _with_usage(database, order, part.after or ""):
        for customer_id, has_usage in customers:
            if has_usage:
                part = await _issue_next(database, order, customer_id, part, until)
                if part.preparing is not None:
                    return part
            part = part._replace(after=customer_id)
            if asyncio.get_running_loop().time() > until:
                return part
    return part._replace(after=None)


async def _issue_next(
    database: Database, order: IssueOrder, customer_id: str, part: IssuedPart, until: float
) -> IssuedPart:
    """Issue the statement of one customer: the part with what came of it."""
    try:
        result = await issue(database, order._replace(month=_month_of(order, customer_id)), until)
    except ProblemError as error:
        failure = IssueFailure(customer_id=customer_id, code=error.details.code, detail=error.details.detail)
        return part._replace(failed=[*part.failed, failure])
    if result.issued is None:
        return part._replace(preparing=StatementProgress(*result.progress))
    if not result.is_new:
        return part._replace(unchanged=part.unchanged + 1)
    return part._replace(issued=[*part.issued, result.issued.listed])


def _month_of(order: IssueOrder, customer_id: str) -> Month:
    return msgspec.structs.replace(order.month, customer_id=customer_id)


async def _with_usage(database: Database, order: IssueOrder, after: str) -> list[tuple[str, bool]]:
    """The next customers, each with whether there is usage to bill in the month, or was when it was issued."""
    month, minor_unit = order.month, MINOR_UNITS[order.currency]
    found = []
    async with database.read_connection(is_large=True) as connection:
        for customer in await list_customers(connection, after, PAGE_CUSTOMERS):
            total = await month_total(connection, customer.id, month.start, month.end, minor_unit)
            has_usage = total.records > 0
            of_customer = _month_of(order, customer.id)
            has_usage = has_usage or await latest_listed(connection, of_customer) is not None
            if has_usage and await overlapping_issue(connection, of_customer) is not None:
                has_usage = False  # it was billed, in another time zone
            found.append((customer.id, has_usage))
    return found
