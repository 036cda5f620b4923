"""Keeps the overviews of all customers for a moment, since it takes one to read them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import NamedTuple

import asyncpg
from msgspec.structs import replace

from billing_service.database.clock import Clock
from billing_service.database.pool import Connection, Database, DatabaseUnavailableError
from billing_service.ledger.overviews.calendars import Calendar, calendar_of
from billing_service.ledger.overviews.reading import read_month, read_overview
from billing_service.ledger.overviews.structs import Overview

_log = logging.getLogger(__name__)
KEPT_SECONDS = 300.0  # how long an overview of all customers is shown at most, while a newer one is read
NEW_SECONDS = 1.0  # how long what was read counts as new
MONTH_TIMES, WHOLE_TIMES = (
    5,
    20,
)  # or so many times what it took to read this month, or the whole overview, if that is more
QUICK_SECONDS = 0.05  # the whole is read at once where it takes no longer than this


class _Kept(NamedTuple):
    """An overview, and until when its parts count as new, on the loop's clock.

    `began` is when the reading of this month began, `compared` when that of the comparison did, and `took` how long
    the reading of both took.
    """

    overview: Overview
    began: float
    until: float
    compared: float
    compared_until: float
    took: float


class Overviews:
    """Reads overviews.

    This month is read anew when somebody asks for it. What it is compared with takes several times as long and hardly
    changes: where it takes long the last is kept, says as of when it is, and a newer one is read in the background.

    Args:
        database: Where to read.
        clock: Tells the database's time.
        quick_seconds: How long it may take to read a whole overview without keeping parts of it.
        max_kept: How many time zones are kept at most.
    """

    def __init__(
        self, database: Database, clock: Clock, quick_seconds: float = QUICK_SECONDS, max_kept: int = 100
    ) -> None:
        self._database = database
        self._clock = clock
        self._quick_seconds = quick_seconds
        self._max_kept = max_kept
        self._kept: dict[str, _Kept] = {}
        self._reading: dict[str, asyncio.Lock] = {}
        self._reader: asyncio.Task[None] | None = None

    async def read(self, customer_id: str | None, zone: str, *, fresh: bool = False) -> Overview:
        """An overview. Raises DatabaseUnavailableError.

        Args:
            customer_id: The customer; None for all.
            zone: The time zone of its days.
            fresh: Whether this month must hold all that was committed before this call; else it may be one that was
                kept, of at most KEPT_SECONDS ago.
        """
        calendar = calendar_of(self._clock.now(), zone)
        if customer_id is not None:
            return await self._read(customer_id, calendar)
        now = asyncio.get_running_loop().time()
        kept = self._usable(calendar, now)
        if fresh or kept is None:
            kept = await self._read_since(calendar, now)
        is_due = min(kept.until, kept.compared_until) < now
        if is_due and self._reader is None:
            self._reader = asyncio.create_task(self._renew(calendar), context=Context())
        return replace(kept.overview, is_due=is_due)

    async def close(self) -> None:
        """End what is read in the background."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _renew(self, calendar: Calendar) -> None:
        try:
            await self._read_all(calendar)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("the console's overview could not be read: %s", error)
        finally:
            self._reader = None

    def _usable(self, calendar: Calendar, now: float) -> _Kept | None:
        """What is kept of these two months, unless it is too old."""
        kept = self._kept.get(calendar.zone)
        is_usable = kept is not None and kept.overview.calendar.days == calendar.days
        return kept if is_usable and kept is not None and now < kept.compared + KEPT_SECONDS else None

    async def _read_since(self, calendar: Calendar, moment: float) -> _Kept:
        """An overview whose month was read at a moment or later. Whoever waits for one shares the next."""
        if len(self._reading) > self._max_kept:
            self._reading.clear()
            self._kept.clear()
        async with self._reading.setdefault(calendar.zone, asyncio.Lock()):
            kept = self._usable(calendar, moment)
            if kept is None:
                return await self._read_all(calendar)
            if kept.began >= moment:
                return kept
            return await (
                self._read_month(calendar, kept) if kept.took > self._quick_seconds else self._read_all(calendar)
            )

    async def _read_all(self, calendar: Calendar) -> _Kept:
        time = asyncio.get_running_loop().time
        began = time()
        overview = await self._read(None, calendar)
        took = time() - began
        until = began + max(NEW_SECONDS, took * WHOLE_TIMES)
        return self._keep(_Kept(overview, began, until, began, until, took))

    async def _read_month(self, calendar: Calendar, kept: _Kept) -> _Kept:
        """As what is kept, with this month read anew."""
        time = asyncio.get_running_loop().time
        began = time()
        async with self._snapshot() as connection:
            overview = await read_month(connection, None, calendar, kept.overview.comparison)
        until = began + max(NEW_SECONDS, (time() - began) * MONTH_TIMES)
        return self._keep(kept._replace(overview=overview, began=began, until=until))

    async def _read(self, customer_id: str | None, calendar: Calendar) -> Overview:
        async with self._snapshot() as connection:
            return await read_overview(connection, customer_id, calendar)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with (
            self._database.read_connection(is_large=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    def _keep(self, new: _Kept) -> _Kept:
        """Keep what was read, and of what is kept already the parts that are newer."""
        zone = new.overview.calendar.zone
        old = self._kept.get(zone, new)
        if old.overview.calendar.days == new.overview.calendar.days:
            month = max(old, new, key=lambda each: each.began)
            other = max(old, new, key=lambda each: each.compared)
            overview = replace(month.overview, comparison=other.overview.comparison)
            new = other._replace(overview=overview, began=month.began, until=month.until)
        self._kept[zone] = new
        return new
