"""Which dimensions are summed up with the records, and the sums of what was recorded before.

What is recorded from `add_dimension` on is summed up in its own transaction. What was there before is summed up in
steps, customer by customer, while usage is recorded. A step holds a lock that whoever records usage with dimensions
shares, so it sees all of a record or none of it; a step is bounded, so nobody waits long. If the filling is stopped, it
goes on with the customer at which it was. Until it is done, sums by the dimension are added up from the records.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import asyncpg
import msgspec
from msgspec import Meta, Struct

from billing_client.contract.periods import DAY
from billing_client.contract.wire import DimensionName
from billing_service.database.migrations import AnyConnection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS, ceil, floor
from billing_service.ledger.rollups import EARLIEST

_QUERIES = load_queries("dimensions")
_CUSTOMERS = load_queries("customers")
STEP_RECORDS = 20_000  # take 0.1 s or so
STEP_QUARTERS = 2_000
CUSTOMERS_AT_ONCE = 1_000
_QUARTER, _MINUTE = timedelta(minutes=15), timedelta(minutes=1)


class PreparedDimension(Struct, frozen=True):
    """A dimension that is summed up with the records.

    Attributes:
        name: Its name.
        added_at: Since when.
        filled_at: When all that was recorded before was summed up; None if that is not done.
        done: The customers that are done, of those with usage of before.
        customers: How many customers there are.
    """

    name: Annotated[str, Meta(max_length=64)]
    added_at: datetime
    filled_at: datetime | None
    done: int
    customers: int


def check_name(name: str) -> str:
    """The name of a dimension. Raises ValueError."""
    return msgspec.convert(name, DimensionName)


async def list_dimensions(connection: AnyConnection) -> list[PreparedDimension]:
    """The dimensions that are summed up, by name, and how far that is."""
    return [await _described(connection, row) for row in await connection.fetch(_QUERIES["list_prepared"])]


async def _described(connection: AnyConnection, row: asyncpg.Record) -> PreparedDimension:
    count = await connection.fetchrow(_QUERIES["count_customers"], row["filled_to"])
    done, customers = (0, 0) if count is None else count
    is_filled = row["filled_at"] is not None
    return PreparedDimension(
        row["dimension"], row["added_at"], row["filled_at"], customers if is_filled else done, customers
    )


async def add_dimension(
    connection: AnyConnection, name: str, step_records: int = STEP_RECORDS
) -> AsyncGenerator[tuple[int, int], None]:
    """Sum up a dimension from now on, and then what was recorded before; does nothing for one that is done.

    Args:
        connection: A connection of a role that owns the tables, without an open transaction.
        name: The dimension.
        step_records: How many records a transaction looks at, about; one quarter of an hour of a customer at the least.

    Yields:
        After each customer how many are done, and how many there are.
    """
    await connection.execute(_QUERIES["add_prepared"], name)
    rows = await connection.fetch(_QUERIES["list_prepared"])
    row = next(row for row in rows if row["dimension"] == name)
    if row["filled_at"] is not None:
        return
    described = await _described(connection, row)
    done, after = described.done, row["filled_to"]
    while customers := await connection.fetch(_CUSTOMERS["list_customers"], after, CUSTOMERS_AT_ONCE):
        for customer in customers:
            after = customer["customer_id"]
            await _fill_customer(connection, name, after, step_records)
            await connection.execute(_QUERIES["filled_up_to"], name, after)
            done += 1
            yield done, max(done, described.customers)
    await connection.execute(_QUERIES["filled"], name)


async def remove_dimension(connection: AnyConnection, name: str) -> bool:
    """Stop summing up a dimension, and delete its sums customer by customer. Returns whether it was summed up."""
    status = await connection.execute(_QUERIES["remove_prepared"], name)
    after = ""
    while customers := await connection.fetch(_CUSTOMERS["list_customers"], after, CUSTOMERS_AT_ONCE):
        for customer in customers:
            after = customer["customer_id"]
            await connection.execute(_QUERIES["forget_sums"], after, name)
    return bool(status.endswith(" 1"))


async def _fill_customer(connection: AnyConnection, name: str, customer_id: str, step_records: int) -> None:
    """Sum up a customer's records of before, and those that came in meanwhile."""
    after, is_first = EARLIEST - DAY, True
    while True:
        async with connection.transaction():
            await connection.execute(_QUERIES["keep_out"], customer_id)
            if is_first:  # what is left of an earlier preparation
                await connection.execute(_QUERIES["forget_sums"], customer_id, name)
            counts = await connection.fetch(_QUERIES["count_records"], customer_id, after, STEP_QUARTERS)
            if not counts:
                return
            first, after = counts[0]["bucket"], _last_of_step(counts, step_records)
            await connection.execute(_QUERIES["fill_quarters"], customer_id, name, first, after + _QUARTER)
            await _fill_larger(connection, customer_id, name, first, after + _QUARTER)
        is_first = False


def _last_of_step(counts: Sequence[asyncpg.Record], step_records: int) -> datetime:
    """The last quarter of an hour that a step takes."""
    records = 0
    for count in counts:
        records += count["records"]
        last: datetime = count["bucket"]
        if records >= step_records:
            break
    return last


async def _fill_larger(connection: AnyConnection, customer_id: str, name: str, start: datetime, end: datetime) -> None:
    """Add up the quarters of an hour to the larger buckets in which they lie."""
    for size in (DAY, *(size for size in BUCKETS if size > _QUARTER)):
        span = (floor(start, size), ceil(end, size))
        rows = await connection.fetch(_QUERIES["read_quarters"], customer_id, name, *span, size // _MINUTE, size)
        await connection.executemany(_QUERIES["put_sum"], [tuple(row) for row in rows])
