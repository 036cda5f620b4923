"""Find records whose customer is not known, by request id or event id.

No index holds request ids alone: it would cost every write. So each customer is looked at in the index that there is.
"""

from typing import NamedTuple

from billing_client.contract.identity import event_request_id
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.records import find_record, record_of, voided_of
from billing_service.ledger.statements.pieces import without_jit

_QUERIES = load_queries("finds")
_USAGE = load_queries("usage")
MAX_FOUND = 20


class Found(NamedTuple):
    """Where a record is: its customer, and its request id in hex."""

    customer_id: str
    request_id: str


async def find_records(
    connection: Connection, request_id: bytes | None, event_id: str | None, only: str | None = None
) -> list[Found]:
    """The records with a request id or an event id, at most MAX_FOUND, by customer. Raises what asyncpg raises.

    It takes 4 µs a customer and id.

    Args:
        connection: Where to read.
        request_id: The request id, 32 bytes; None to look for none.
        event_id: The event id; None to look for none.
        only: The only customer to look at; None for all.
    """
    if only is None:
        async with connection.transaction(readonly=True):
            await without_jit(connection)
            rows = await connection.fetch(_QUERIES["records_anywhere"], request_id, event_id, MAX_FOUND)
    else:
        ids = [request_id] if request_id is not None else []
        if event_id is not None:
            ids.append(bytes.fromhex(event_request_id(only, event_id)))
        rows = await connection.fetch(_USAGE["find_usage"], [only] * len(ids), ids)
    return [Found(row["customer_id"], row["request_id"].hex()) for row in rows]


async def find_anywhere(connection: Connection, request_id: bytes) -> UsageRecord[str] | None:
    """The record with this request id, of whichever customer. Raises what asyncpg raises.

    A request id is made of the customer id too, so there is one at most.
    """
    for found in await find_records(connection, request_id, None):
        return await find_record(connection, found.customer_id, request_id)
    return None


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
