"""The export: streams many records to a client that may read slowly or stop reading.

Records are read in turns, each from a database cursor. An open cursor holds a connection, and a snapshot that holds
back vacuum. So a turn ends when it has waited PATIENCE_SECONDS for its client, and at the latest at the time limit of a
database call. The next turn continues after the last record that was read. For a client that keeps up, the next turn
begins at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct, structs

from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection, Database
from billing_service.ledger.customers import list_customers
from billing_service.ledger.records import RecordFilter, read_pages

PAGE_RECORDS = 500
PAGE_CUSTOMERS = 1_000
# The LIMIT of a cursor: with it the planner reads in index order instead of sorting everything. Citus holds all that a
# cursor gives at one node: so many records fit into its `work_mem`, and are not written to a temporary file.
CURSOR_RECORDS = 10_000
PATIENCE_SECONDS = 0.2  # how long a turn waits for its client in total; starting another turn takes a millisecond


class Selection(Struct, frozen=True):
    """Which records to export.

    Attributes:
        customer_id: Only this customer's; None for all customers.
        start: The earliest time of occurrence, inclusive.
        wanted: Which of these.
    """

    customer_id: str | None
    start: datetime
    wanted: RecordFilter


class _Place(NamedTuple):
    """The last record that was read: its customer, and its (occurred at, request id)."""

    customer_id: str
    after: tuple[datetime, bytes]


class RecordStream:
    """The records of a selection by (customer id, occurred at, request id), encoded page by page."""

    def __init__(
        self, database: Database, selection: Selection, encode: Callable[[list[UsageRecord[str]]], bytes]
    ) -> None:
        """Create the stream. Nothing is read before `running`.

        Args:
            database: Where the records are read.
            selection: Which records.
            encode: Encodes a page of at most PAGE_RECORDS records.
        """
        self._database = database
        self._selection = selection
        self._encode = encode
        self._place = _Place("", (selection.start, b""))
        self._chunks: asyncio.Queue[bytes | Exception] = asyncio.Queue(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read in the background during the block. Leaving the block releases the connection."""
        reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            reading.cancel()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The encoded pages. Raises the error that reading raised."""
        while chunk := await self._chunks.get():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def _read(self) -> None:
        try:
            while not await self._turn():
                pass
            await self._chunks.put(b"")
        except Exception as error:  # noqa: BLE001 - `chunks` raises it, whatever it is
            await self._chunks.put(error)

    async def _turn(self) -> bool:
        """Read for one turn. Returns whether everything has been read."""
        now = asyncio.get_running_loop().time
        patience, untaken = PATIENCE_SECONDS, b""
        async with self._database.turn() as (connection, end), aclosing(self._pages(connection)) as pages:
            async for page in pages:
                if page:
                    untaken, patience = self._encode(page), patience + now()
                    try:
                        async with asyncio.timeout_at(min(patience, end)):
                            await self._chunks.put(untaken)
                    except TimeoutError:
                        break
                    untaken, patience = b"", patience - now()
                if now() > end:
                    break
            else:
                return True
        if untaken:
            await self._chunks.put(untaken)
        return False

    async def _pages(self, connection: Connection) -> AsyncGenerator[list[UsageRecord[str]], None]:
        """The records after the last turn. An empty page follows each customer, so that a turn can end there."""
        async for customer_id in self._customers(connection):
            if customer_id != self._place.customer_id:
                self._place = _Place(customer_id, (self._selection.start, b""))
            read = CURSOR_RECORDS
            while read == CURSOR_RECORDS:
                read = 0
                async for page in self._cursor(connection):
                    last = page[-1]
                    self._place = _Place(customer_id, (last.occurred_at, bytes.fromhex(last.request_id)))
                    read += len(page)
                    yield self._selection.wanted.matching(page)
            yield []

    def _cursor(self, connection: Connection) -> AsyncIterator[list[UsageRecord[str]]]:
        # Dimensions are looked at here: the database could search longer than a turn for the next record that has them.
        wanted = structs.replace(self._selection.wanted, dimensions={})
        return read_pages(connection, *self._place, wanted, CURSOR_RECORDS, PAGE_RECORDS)

    async def _customers(self, connection: Connection) -> AsyncIterator[str]:
        if self._selection.customer_id is not None:
            yield self._selection.customer_id
            return
        after = self._place.customer_id
        if after:
            yield after
        while True:
            customers = await list_customers(connection, after, PAGE_CUSTOMERS)
            for customer in customers:
                yield customer.id
            if len(customers) < PAGE_CUSTOMERS:
                return
            after = customers[-1].id
