"""Groups of usage by dimensions: from their own sums where a dimension is prepared, else from the records.

A prepared dimension has sums of its own by day, 3 hours and 15 minutes of UTC, written with the records that have it.
They answer what is asked about this one dimension. What is asked about another, or about two, is added up from the
records.
"""

from collections.abc import Callable

from msgspec import Struct

from billing_client.contract.periods import DAY, SummaryRequest
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.periods import BUCKETS
from billing_service.ledger.records import dimensions_text
from billing_service.ledger.rollups import ROLLUPS, GroupSource, Plan, Seen, Sizes

_QUERIES = load_queries("dimensions")
DIMENSION_BUCKETS: Sizes = (DAY, *BUCKETS)


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
    query: str = _QUERIES["read_prepared"]

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], Plan]
    ) -> tuple[object, ...]:
        """See GroupSource."""
        pieces = plan_of(DIMENSION_BUCKETS)
        # what all usage adds up to, less what has the dimension, is that of the records without it
        rest = plan_of(BUCKETS).rollups if self.is_grouped and self.value is None else [()] * 4
        what = (self.name, self.value, self.is_grouped, seen[2])
        return customer_id, by_service, limit, *seen[:2], *pieces.rollups, *pieces.records, *what, *rest


class Records(Struct, frozen=True):
    """Groups from the records themselves.

    Attributes:
        names: The dimensions whose values are told apart, two at most.
        filters: Only usage with these dimensions.
    """

    names: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]
    query: str = _QUERIES["read_records"]

    def arguments(
        self, customer_id: str, by_service: bool, limit: int, seen: Seen, plan_of: Callable[[Sizes], Plan]
    ) -> tuple[object, ...]:
        """See GroupSource."""
        one, other = (*self.names, None, None)[:2]
        filters = dimensions_text(dict(self.filters))
        return customer_id, by_service, limit, *seen[:2], *plan_of(()).records, one, other, filters, *seen[2:]


async def source_for(connection: Connection, asked: SummaryRequest) -> GroupSource:
    """Where the groups are read from that a summary asks for."""
    filters, grouped = dict(asked.filters), asked.grouping.dimensions
    names = {*filters, *grouped}
    if not names:
        return ROLLUPS
    if len(names) == 1 and await connection.fetchval(_QUERIES["is_filled"], *names):
        (name,) = names
        return Prepared(name, filters.get(name), bool(grouped))
    return Records(grouped, asked.filters)


async def reads_records(connection: Connection, asked: SummaryRequest) -> bool:
    """Whether the answer has to be added up from the records."""
    return isinstance(await source_for(connection, asked), Records)
