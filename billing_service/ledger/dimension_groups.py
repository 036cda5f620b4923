"""Groups of usage by dimensions: from their own sums where a dimension is prepared, else from the records.

A prepared dimension has sums of its own by day, 3 hours and 15 minutes of UTC, written with the records that have it.
They answer what is asked about this one dimension. What is asked about another, or about two, is added up from the
records.
"""

from collections.abc import Callable, Sequence

import asyncpg
from msgspec import Struct

from billing_client.contract.periods import DAY, SummaryRequest
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS
from billing_service.ledger.records import dimensions_text
from billing_service.ledger.rollups import ROLLUPS, GroupSource, Plan, Seen, Sizes

_QUERIES = load_queries("dimensions")
DIMENSION_BUCKETS: Sizes = (DAY, *BUCKETS)


class NotPreparedError(Exception):
    """The sums of a dimension do not hold all records: it is not summed up, or not yet. The records have to be read."""


class Prepared(Struct, frozen=True):
    """Groups from the sums of a prepared dimension.

    Attributes:
        name: The dimension.
        value: Only usage with this value of it; None for all.
        is_grouped: Whether its values are told apart.
    """

    name: str
    value: str | None
    is_grouped: bool

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], Plan]
    ) -> tuple[object, ...]:
        """See GroupSource."""
        pieces = plan_of(DIMENSION_BUCKETS)
        # what all usage adds up to, less what has the dimension, is that of the records without it
        rest = plan_of(BUCKETS).rollups if self.is_grouped and self.value is None else [()] * 4
        what = (self.name, self.value, self.is_grouped, seen[2])
        return customer_id, by_service, limit, *seen[:2], *pieces.rollups, *pieces.records, *what, *rest

    async def read(self, connection: Connection, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """See GroupSource. Raises NotPreparedError if the sums do not hold all records."""
        if rows := await connection.fetch(_QUERIES["read_prepared"], *arguments):
            return rows
        # nothing to sum up, or not from these sums: one snapshot tells which
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if not await connection.fetchval(_QUERIES["is_filled"], self.name):
                raise NotPreparedError(self.name)
            return await connection.fetch(_QUERIES["read_prepared"], *arguments)


class Records(Struct, frozen=True):
    """Groups from the records themselves.

    Attributes:
        names: The dimensions whose values are told apart, two at most.
        filters: Only usage with these dimensions.
    """

    names: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], Plan]
    ) -> tuple[object, ...]:
        """See GroupSource."""
        one, other = (*self.names, None, None)[:2]
        filters = dimensions_text(dict(self.filters))
        return customer_id, by_service, limit, *seen[:2], *plan_of(()).records, one, other, filters, *seen[2:]

    async def read(self, connection: Connection, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """See GroupSource."""
        return await connection.fetch(_QUERIES["read_records"], *arguments)


def sources_for(asked: SummaryRequest) -> Sequence[GroupSource]:
    """Where the groups are read from that a summary asks for: the first that does not raise NotPreparedError."""
    filters, grouped = dict(asked.filters), asked.grouping.dimensions
    names = {*filters, *grouped}
    if not names:
        return (ROLLUPS,)
    records = Records(grouped, asked.filters)
    if len(names) > 1:
        return (records,)
    (name,) = names
    return Prepared(name, filters.get(name), bool(grouped)), records


async def reads_records(connection: Connection, asked: SummaryRequest) -> bool:
    """Whether the answer has to be added up from the records."""
    first = sources_for(asked)[0]
    is_filled = isinstance(first, Prepared) and await connection.fetchval(_QUERIES["is_filled"], first.name)
    return not is_filled and first is not ROLLUPS
