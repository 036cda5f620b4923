"""Find records whose customer is not known, by request id or event id.

No index holds request ids alone: it would cost every write. So each customer is looked at in the index that there is.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from billing_client.contract.identity import event_request_id
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.records import record_of, voided_of

_QUERIES = load_queries("finds")
_USAGE = load_queries("usage")
CUSTOMERS_AT_ONCE = 10_000
MAX_FOUND = 20


class Found(NamedTuple):
    """Where a record is: its customer, and its request id in hex."""

    customer_id: str
    request_id: str


async def find_by_request_id(connection: Connection, request_id: bytes) -> Found | None:
    """Where the record with this request id is, of whichever customer. Raises what asyncpg raises."""
    record = await find_anywhere(connection, request_id)
    return None if record is None else Found(record.customer_id, record.request_id)


async def find_anywhere(connection: Connection, request_id: bytes) -> UsageRecord[str] | None:
    """The record with this request id, of whichever customer. Raises what asyncpg raises.

    A request id is made of the customer id too, so there is one at most. It takes 4 µs a customer.
    """
    async for ids in _customers(connection):
        if (row := await connection.fetchrow(_QUERIES["record_among"], ids, request_id)) is not None:
            return record_of(row)
    return None


async def _customers(connection: Connection) -> AsyncIterator[list[str]]:
    """The ids of all customers, some at a time, in order."""
    after = ""
    while rows := await connection.fetch(_QUERIES["customer_ids"], after, CUSTOMERS_AT_ONCE):
        ids = [row["customer_id"] for row in rows]
        yield ids
        after = ids[-1]


async def find_by_event_id(connection: Connection, event_id: str, only: str | None = None) -> list[Found]:
    """The records with this event id, at most MAX_FOUND. Raises what asyncpg raises.

    Args:
        connection: Where to read.
        event_id: The event id.
        only: The only customer to look at; None for all.
    """
    if only is not None:
        return await _among(connection, [only], event_id)
    found: list[Found] = []
    async for ids in _customers(connection):
        found += await _among(connection, ids, event_id)
        if len(found) >= MAX_FOUND:
            break
    return found[:MAX_FOUND]


async def _among(connection: Connection, customer_ids: list[str], event_id: str) -> list[Found]:
    """The records with an event id among those of some customers: their request ids can be computed."""
    request_ids = [bytes.fromhex(event_request_id(customer_id, event_id)) for customer_id in customer_ids]
    rows = await connection.fetch(_QUERIES["records_among"], customer_ids, request_ids)
    return [Found(row["customer_id"], row["request_id"].hex()) for row in rows]


class RecordDetails(NamedTuple):
    """All that is stored of a record: `record` is a VoidedUsage if it is voided."""

    record: UsageRecord[str]
    idempotency_key: str | None


async def read_details(connection: Connection, customer_id: str, request_id: bytes) -> RecordDetails | None:
    """All that is stored of a record; None if there is no such record. Raises what asyncpg raises."""
    row = await connection.fetchrow(_USAGE["find_usage"], [customer_id], [request_id])
    if row is None:
        return None
    return RecordDetails(record_of(row) if row["voided_at"] is None else voided_of(row), row["idempotency_key"])
