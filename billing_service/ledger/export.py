"""Many records for somebody who may take them slowly, or not at all: read in turns, each from a cursor of the database.

A cursor holds a connection, and a snapshot that keeps the vacuum from its work. So a turn ends once it has waited
for its reader for a while, and in any case before a call's time on the database does; the next one goes on by key,
after the last record that was read. While a reader keeps up its turns follow on each other.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection, Database
from billing_service.ledger.customers import list_customers
from billing_service.ledger.records import read_pages

PAGE_RECORDS = 1_000
PAGE_CUSTOMERS = 1_000
CURSOR_RECORDS = 50_000  # a limit, so that the planner reads in order instead of sorting all that there is
PATIENCE_SECONDS = 0.2  # that a turn waits for its reader in all; another turn costs a millisecond


class Selection(Struct, frozen=True):
    """Which records: of one customer or of all, of one service or of all; `start` is in, `end` is out."""

    customer_id: str | None
    service: str | None
    start: datetime
    end: datetime


class _Place(NamedTuple):
    """Up to where records were read: a customer, and the (occurred at, request id) of the last one."""

    customer_id: str
    after: tuple[datetime, bytes]


class RecordStream:
    """The records of a selection by (customer id, occurred at, request id), encoded page by page."""

    def __init__(
        self, database: Database, selection: Selection, encode: Callable[[list[UsageRecord[str]]], bytes]
    ) -> None:
        self._database = database
        self._selection = selection
        self._encode = encode
        self._place = _Place("", (selection.start, b""))
        self._chunks: asyncio.Queue[bytes | Exception] = asyncio.Queue(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read for as long as the block lasts; afterwards nothing is held."""
        reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            reading.cancel()

    async def chunks(self) -> AsyncIterator[bytes]:
        """What was read. Raises what reading raised."""
        while chunk := await self._chunks.get():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def _read(self) -> None:
        try:
            while not await self._turn():
                pass
            await self._chunks.put(b"")
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever takes the chunks
            await self._chunks.put(error)

    async def _turn(self) -> bool:
        """Read on for a turn; whether that was the last one."""
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
        """The records from where the last turn ended, and after each customer nothing: a moment to end the turn."""
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
                    yield page
            yield []

    def _cursor(self, connection: Connection) -> AsyncIterator[list[UsageRecord[str]]]:
        until, service = self._selection.end, self._selection.service
        return read_pages(connection, *self._place, until, service, CURSOR_RECORDS, PAGE_RECORDS)

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
