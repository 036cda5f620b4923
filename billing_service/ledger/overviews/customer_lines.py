"""Lists of customers for people: found by a part of their id or name, each with what its two months add up to."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime

import asyncpg
from msgspec import Struct

from billing_client.contract.decimals import total
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.overviews.calendars import Calendar

_QUERIES = load_queries("overviews")


async def names_of(connection: Connection, customer_ids: list[str]) -> dict[str, str]:
    """The names of customers, by their ids. Raises what asyncpg raises."""
    rows = await connection.fetch(_QUERIES["names_of_customers"], customer_ids)
    return {row["customer_id"]: row["name"] for row in rows}


class CustomerLine(Struct, frozen=True):
    """A customer in a list: its name, its totals of each day of a calendar, and what the two months add up to.

    Attributes:
        id: Its id.
        name: Its name.
        days: The amount of each day, in order.
        records: How many records it has this month.
        amount: This month's amount.
        before: The amount of the month before, until the same moment.
    """

    id: str
    name: str
    days: list[str]
    records: int
    amount: str
    before: str


async def search_customers(
    connection: Connection, text: str, after: str, limit: int, only: str | None = None
) -> list[tuple[str, str]]:
    """Find customers by a part of their id or name, whatever its case. Raises what asyncpg raises.

    Args:
        connection: Where to read.
        text: The text to look for; empty for all customers.
        after: List only ids after this one; empty for all.
        limit: The most customers to return.
        only: The only customer that the caller may see; None for all customers.

    Returns:
        The id and name of each, by id.
    """
    if only is not None:
        found = [(id_, name) for id_, name in (await names_of(connection, [only])).items() if after < id_]
        return [each for each in found if any(text.lower() in part.lower() for part in each)]
    rows = await connection.fetch(_QUERIES["search_customers"], after, text, limit)
    return [(row["customer_id"], row["name"]) for row in rows]


async def customer_lines(
    connection: Connection, customers: Sequence[tuple[str, str]], calendar: Calendar
) -> list[CustomerLine]:
    """The totals of customers, given by id and name. Raises what asyncpg raises."""
    cuts = calendar.cuts
    ids = [id_ for id_, _ in customers]
    rows = await connection.fetch(_QUERIES["totals_of_customers"], calendar.minutes, ids, cuts)
    by_customer: dict[str, list[asyncpg.Record]] = {id_: [] for id_ in ids}
    for row in rows:
        by_customer[row["customer_id"]].append(row)
    return [_line(id_, name, by_customer[id_], calendar, cuts) for id_, name in customers]


def _line(
    id_: str, name: str, rows: Sequence[asyncpg.Record], calendar: Calendar, cuts: Sequence[datetime]
) -> CustomerLine:
    days = ["0"] * len(calendar.days)
    for row in rows:
        day = bisect_right(calendar.bounds, cuts[row["day"] - 1]) - 1
        days[day] = total([days[day], row["amount"]])
    return CustomerLine(
        id=id_,
        name=name,
        days=days,
        records=sum(row["records"] for row in rows if cuts[row["day"] - 1] >= calendar.bounds[calendar.first]),
        amount=total(days[calendar.first :]),
        before=total(row["amount"] for row in rows if cuts[row["day"] - 1] < calendar.comparable),
    )
