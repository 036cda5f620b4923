"""The worker that prepares pieces as time passes, so that statements of any size are read at once.

Each process of the service has one; an advisory lock for each customer lets only one of them work on it. It goes over
the customers in rounds. A round looks at usage of the last days; from time to time at all of it, so that late arrivals
and what an earlier version recorded get their pieces too. A statement that somebody waits for comes first.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from math import inf

import asyncpg

from billing_client.contract.statements.digests import PIECE
from billing_service.database.clock import Clock
from billing_service.database.pool import Database, DatabaseUnavailableError
from billing_service.ledger.customers import list_customers
from billing_service.ledger.periods import floor
from billing_service.ledger.rollups import EARLIEST
from billing_service.ledger.statements.pieces import QUERIES, SLIGHTLY_LATE
from billing_service.ledger.statements.refreshing import Progress, refresh_slice
from billing_service.pace import USUAL, Pace

_log = logging.getLogger(__name__)
FULL_PART_SECONDS = 30.0  # of such a round at a time
PAUSE = 1.0  # seconds without work for each second of work
PAGE_CUSTOMERS = 500  # whose last days are looked at together
FULL_PAGE_CUSTOMERS = 10  # whose usage of all years is looked at together, which takes milliseconds for each
RECENT = timedelta(days=2)
# A piece is made when its three hours are over for so long: what comes after that is in the index of late records, even
# if its commit took some time.
SETTLED = SLIGHTLY_LATE + timedelta(minutes=15)
MAX_WANTED = 1_000


class PieceWorker:
    """Prepares pieces in the background.

    Args:
        database: Where they are.
        clock: Tells the database's time.
        processes: How many processes of this service there are; their rounds are so much less frequent.
        pace: How often the rounds are.
    """

    def __init__(self, database: Database, clock: Clock, processes: int, pace: Pace = USUAL) -> None:
        self._database = database
        self._clock = clock
        self._processes = processes
        self._pace = pace
        self._wanted: dict[tuple[str, datetime, datetime], None] = {}
        self._is_wanted = asyncio.Event()
        self._full_after: str | None = ""
        self._full_at = 0.0
        self._has_failed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop after what is under way, which is rolled back."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def want(self, customer_id: str, start: datetime, end: datetime) -> None:
        """Prepare the pieces of some time before anything else. Nobody waits for it to be done."""
        if len(self._wanted) < MAX_WANTED:
            self._wanted[customer_id, start, end] = None
            self._is_wanted.set()

    async def _run(self) -> None:
        await self._serve_wanted(self._pace.first_round_seconds)
        while True:
            try:
                await self._round()
                await self._part_of_full_round()
                self._has_failed = False
            except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
                if not self._has_failed:  # said once, not every time
                    _log.warning("pieces of statements are not prepared: %s", error)
                self._has_failed = True
            await self._serve_wanted(self._pace.round_seconds * self._processes)

    async def _serve_wanted(self, seconds: float) -> None:
        """Prepare what is wanted, for so many seconds."""
        now = asyncio.get_running_loop().time
        end = now() + seconds
        while (left := end - now()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._is_wanted.wait()
                await self._prepare_wanted()

    async def _prepare_wanted(self) -> None:
        """Prepare a slice of what is wanted first; what is left comes last."""
        wanted = next(iter(self._wanted), None)
        if wanted is None:
            self._is_wanted.clear()
            return
        del self._wanted[wanted]
        try:
            progress = await self._slice(*wanted, pause=0.0)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("a statement is not prepared: %s", error)
            return
        if progress is not None and not progress.is_done:
            self.want(*wanted)

    async def _round(self) -> None:
        """Prepare the recent usage of all customers."""
        start = floor(self._clock.now() - RECENT, PIECE)
        async for customers in self._pages("", PAGE_CUSTOMERS):
            await self._prepare(customers, start)

    async def _part_of_full_round(self) -> None:
        """Go on with a round over all usage, or begin one when it is time."""
        now = asyncio.get_running_loop().time
        if self._full_after is None and now() < self._full_at:
            return
        until = now() + FULL_PART_SECONDS
        async for customers in self._pages(self._full_after or "", FULL_PAGE_CUSTOMERS):
            if not await self._prepare(customers, EARLIEST, until):
                return  # the next part goes on with the same customers
            self._full_after = customers[-1]
            if now() > until:
                return
        self._full_after, self._full_at = None, now() + self._pace.full_round_seconds

    async def _pages(self, after: str, size: int) -> AsyncIterator[list[str]]:
        """The ids of the customers after one, page by page."""
        while True:
            async with self._database.read_connection() as connection:
                ids = [customer.id for customer in await list_customers(connection, after, size)]
            if not ids:
                return
            yield ids
            after = ids[-1]

    async def _prepare(self, customers: Sequence[str], start: datetime, until: float = inf) -> bool:
        """Prepare the settled usage of some customers from `start` on; what somebody waits for goes before each slice.

        False if `until`, on the loop's clock, came before the end.
        """
        now = self._clock.now()
        end = floor(now - SETTLED, PIECE)
        async with self._database.read_connection(is_large=True) as connection:
            old = now - self._pace.piece_age
            rows = await connection.fetch(QUERIES["stale_customers"], customers, start, end, old)
        await self._prepare_wanted()
        for row in rows:
            while True:
                if asyncio.get_running_loop().time() > until:
                    return False
                progress = await self._slice(row["customer_id"], row["first"], end)
                await self._prepare_wanted()
                if progress is None or progress.is_done:
                    break
        return True

    async def _slice(
        self, customer_id: str, start: datetime, end: datetime, *, pause: float = PAUSE
    ) -> Progress | None:
        """Bring some pieces up to date; None if another process is at it. Then pause, so that others get their turn."""
        now = asyncio.get_running_loop().time
        begin = now()
        async with self._database.connection() as connection:
            progress = await refresh_slice(connection, customer_id, start, end)
        await asyncio.sleep((now() - begin) * pause)
        return progress
