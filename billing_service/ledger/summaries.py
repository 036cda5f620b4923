"""Summaries: what usage adds up to, page by page."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Struct, structs

from billing_client.contract.periods import Grouping, SummaryRequest, period_labels
from billing_client.contract.totals import RunningTotal, group_dimensions
from billing_client.contract.wire import MAX_GROUPS, CreditTotal, CustomerSummary, Id, SummaryGroup, SummaryTotal
from billing_service.database.pool import Connection
from billing_service.ledger.customers import list_customers
from billing_service.ledger.dimension_groups import NotPreparedError, sources_for
from billing_service.ledger.loop_slices import in_slices
from billing_service.ledger.rollups import GroupKey, read_groups

PAGE_SECONDS = 2.0  # so that a page of many customers with much usage does not run into a time-out
_EVERYTHING = Grouping(service=False, period=None, timezone="UTC")


class SummaryPart(NamedTuple):
    """A page of the groups of one summary. `total` is that of all its groups; `next` is None on the last page."""

    groups: list[SummaryGroup[str]]
    total: SummaryTotal[str]
    next: GroupKey | None


class Position(Struct, array_like=True, frozen=True):
    """Where a page of summaries ends: after a customer, or after this group of the customer."""

    customer_id: Id
    group: GroupKey | None = None


async def summarize_customer(
    connection: Connection, customer_id: str, asked: SummaryRequest, limit: int, after: GroupKey | None = None
) -> SummaryPart:
    """At most `limit` groups of a customer's usage, those after a group. A summary without `groupBy` shows none."""
    if not asked.members:
        return SummaryPart([], await _total(connection, customer_id, asked), None)
    rows = await _read(connection, customer_id, asked, limit + 1, after)
    groups, total = await _add_up(rows[:limit], asked)
    is_whole = after is None and len(rows) <= limit
    if not is_whole:
        total = await _total(connection, customer_id, asked)
    last = None
    if len(rows) > limit:
        last = GroupKey(rows[limit - 1]["period"], groups[-1].service, list(_values(rows[limit - 1], asked)))
    return SummaryPart(groups, total, last)


async def summarize_customers(
    connection: Connection,
    asked: SummaryRequest,
    limit: int,
    after: Position | None = None,
    *,
    only: str | None = None,
    max_groups: int = MAX_GROUPS,
    seconds: float = PAGE_SECONDS,
) -> tuple[list[CustomerSummary[str]], Position | None]:
    """A page of customers with their summaries, by customer id, and where it ends; None where it is the last.

    A customer whose groups do not fit on the rest of a page begins the next one. One that has more than `max_groups`
    is continued there; each part has the total of all.

    Args:
        connection: Where to read.
        asked: What to sum up.
        limit: The most customers on a page.
        after: Where the page before ends.
        only: The one customer that the caller may see.
        max_groups: The most groups on a page.
        seconds: After so much time a page ends, once there is a customer on it.
    """
    ids = await _customers_after(connection, limit + 1, after, only)
    page: list[CustomerSummary[str]] = []
    left, end = max_groups, asyncio.get_running_loop().time() + seconds
    for id_ in ids:
        if page and (len(page) == limit or left == 0 or asyncio.get_running_loop().time() > end):
            return page, Position(page[-1].customer_id)
        group = after.group if after is not None and after.customer_id == id_ else None
        part = await summarize_customer(connection, id_, asked, left, group)
        if part.next is not None and page:
            return page, Position(page[-1].customer_id)
        page.append(CustomerSummary(customer_id=id_, groups=part.groups, total=part.total))
        if part.next is not None:
            return page, Position(id_, part.next)
        left -= len(part.groups)
    return page, None


async def _customers_after(connection: Connection, limit: int, after: Position | None, only: str | None) -> list[str]:
    """The customer in the midst of whose groups a page ended, and those that follow."""
    if after is None:
        return [customer.id for customer in await list_customers(connection, "", limit, only)]
    unfinished = [after.customer_id] if after.group is not None and only in (None, after.customer_id) else []
    others = await list_customers(connection, after.customer_id, limit - len(unfinished), only)
    return unfinished + [customer.id for customer in others]


async def _total(connection: Connection, customer_id: str, asked: SummaryRequest) -> SummaryTotal[str]:
    whole = structs.replace(asked, grouping=_EVERYTHING, members=())
    rows = await _read(connection, customer_id, whole, 1)
    return (await _add_up(rows, whole))[1]


async def _read(
    connection: Connection, customer_id: str, asked: SummaryRequest, limit: int, after: GroupKey | None = None
) -> list[asyncpg.Record]:
    """The rows of `read_groups`, from the sums where there are any of what is asked, else from the records."""
    *sums, last = sources_for(asked)
    for source in sums:
        with suppress(NotPreparedError):
            return await read_groups(connection, customer_id, asked, limit, after, source)
    return await read_groups(connection, customer_id, asked, limit, after, last)


async def _add_up(
    rows: list[asyncpg.Record], asked: SummaryRequest
) -> tuple[list[SummaryGroup[str]], SummaryTotal[str]]:
    """The groups of rows of `read_groups`, and what they add up to."""
    groups: list[SummaryGroup[str]] = []
    total = RunningTotal()
    async for part in in_slices(rows):
        for row in part:
            total.add(row["records"], row["units"], row["amount"], row["only_service"])
            total.add_credits(
                row["credit_records"], row["credit_units"], row["credit_amount"], row["only_credit_service"]
            )
            groups.append(_group(row, asked))
    return groups, total.total()


def _group(row: asyncpg.Record, asked: SummaryRequest) -> SummaryGroup[str]:
    credits_ = None
    if row["credit_records"]:
        credits_ = CreditTotal(
            records=row["credit_records"],
            units=row["credit_units"] if row["only_credit_service"] is not None else None,
            amount=row["credit_amount"],
        )
    return SummaryGroup(
        service=row["service"] or None,
        **_labels(row["period"], asked.members, asked.grouping.timezone),
        dimensions=group_dimensions(asked.grouping.dimensions, _values(row, asked)),
        records=row["records"],
        units=row["units"] if row["only_service"] is not None else None,
        amount=row["amount"],
        credits=credits_,
    )


def _values(row: asyncpg.Record, asked: SummaryRequest) -> Sequence[str]:
    """The values of the dimensions that are told apart."""
    return (row["value"], row["other_value"])[: len(asked.grouping.dimensions)] if asked.grouping.dimensions else ()


@lru_cache(maxsize=1_000)
def _labels(period: datetime, members: tuple[str, ...], zone: str) -> dict[str, str]:
    return period_labels(period, members, ZoneInfo(zone))
