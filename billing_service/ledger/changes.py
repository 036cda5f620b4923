"""What changed of which customers, as any process tells it to all: hints for those who watch, and no more than that.

Recording does not wait for it. What a process committed is noted in memory; a background task writes it down, once a
second at most, in a transaction of its own. A hint that a crash loses is made up for when the process starts again.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Literal, NamedTuple, TypeAlias

import asyncpg

from billing_client.contract.outcomes import Decision
from billing_service.database.pool import PARTING_SECONDS, Connection, Database, DatabaseUnavailableError
from billing_service.database.queries import load_queries
from billing_service.database.replication import commit_without_waiting
from billing_service.pace import USUAL, Pace

_log = logging.getLogger(__name__)
_QUERIES = load_queries("changes")
Kind: TypeAlias = Literal["totals", "refusals", "statements"]
MAX_CUSTOMERS = 1_000  # that are named of one kind at a time
KEPT_SECONDS = 600.0
PRUNE_SECONDS = 60.0


class Customers:
    """Customers of which something changed: at most MAX_CUSTOMERS by id, and whether there are more."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.more = False

    def add(self, customer_ids: Iterable[str], *, more: bool = False) -> None:
        """Add customers."""
        self.ids.update(customer_ids)
        if len(self.ids) > MAX_CUSTOMERS:
            self.ids = set(list(self.ids)[:MAX_CUSTOMERS])
            more = True
        self.more |= more


class Changes:
    """Notes what changed, and tells all processes."""

    def __init__(self, database: Database, pace: Pace = USUAL) -> None:
        self._database = database
        self._pace = pace
        self._untold: dict[Kind, Customers] = {}
        self._writer: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._is_told = True
        self._pruned_at = 0.0

    def note(self, kind: Kind, customer_ids: Iterable[str], *, more: bool = False) -> None:
        """Note that something was committed.

        Args:
            kind: What changed.
            customer_ids: Of which customers; may be empty, where it is of none.
            more: Whether it is of other customers too, which are not named.
        """
        customers = self._untold.get(kind)
        if customers is None:
            customers = self._untold[kind] = Customers()
        customers.add(customer_ids, more=more)
        if self._writer is None:  # it outlives the call, so it takes over nothing of its context
            self._writer = asyncio.create_task(self._write(), context=Context())

    def note_recorded(self, decisions: Sequence[Decision]) -> None:
        """Note the usage that was recorded among these."""
        customer_ids = {
            decision.record.customer_id
            for decision in decisions
            if decision.outcome == "recorded" and decision.record is not None
        }
        if customer_ids:
            self.note("totals", customer_ids)

    def note_start(self) -> None:
        """Note that this process starts: one before it may have ended before it told what it committed."""
        self.note("totals", (), more=True)

    async def drain(self) -> None:
        """Tell what was not told yet, for at most PARTING_SECONDS."""
        self._stop.set()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=PARTING_SECONDS)

    async def _write(self) -> None:
        try:
            while self._untold:
                await self._pause(self._pace.change_seconds)
                await self._tell()
                if self._stop.is_set():
                    return
                await self._pause(self._pace.change_pause_seconds)
        finally:
            self._writer = None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _tell(self) -> None:
        untold, self._untold = self._untold, {}
        try:
            async with self._database.connection() as connection:
                await _insert(connection, untold)
                await self._prune(connection)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            if self._is_told:  # said once, not every second
                _log.warning("who watches is not told yet what changed: %s", error)
            self._is_told = False
            for kind, customers in untold.items():
                self._untold.setdefault(kind, Customers()).add(customers.ids, more=customers.more)
            return
        self._is_told = True

    async def _prune(self, connection: Connection) -> None:
        now = time.monotonic()
        if self._pruned_at and now < self._pruned_at + PRUNE_SECONDS:
            return
        self._pruned_at = now
        await connection.execute(_QUERIES["drop_changes"], KEPT_SECONDS, (await read_range(connection)).last)


async def _insert(connection: Connection, untold: dict[Kind, Customers]) -> None:
    texts = ["\n".join(customers.ids) for customers in untold.values()]
    async with connection.transaction():
        await commit_without_waiting(connection)
        more = [customers.more for customers in untold.values()]
        await connection.execute(_QUERIES["tell_changes"], list(untold), texts, more)


class Range(NamedTuple):
    """The numbers of the first and the last change that is kept; the first is above the last where there is none."""

    first: int
    last: int


class Change(NamedTuple):
    """Something changed of these customers, and of others where there are `more`."""

    number: int
    kind: Kind
    customer_ids: list[str]
    more: bool


async def read_range(connection: Connection) -> Range:
    """Which changes are kept."""
    row = await connection.fetchrow(_QUERIES["range_of_changes"])
    return Range(*row) if row is not None else Range(1, 0)


async def read_changes(connection: Connection, after: int, seen: Iterable[int], limit: int) -> list[Change]:
    """At most `limit` changes with a number above `after`, without those in `seen`, in order."""
    rows = await connection.fetch(_QUERIES["read_changes"], after, list(seen), limit)
    return [Change(*row) for row in rows]
