"""Samples the gauges: how full the queue and the pool are, the clock skew, and what a commit waits for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import asyncpg

from billing_service.database.clock import Clock
from billing_service.database.pool import PARTING_SECONDS, Database, DatabaseUnavailableError
from billing_service.database.replication import Durability, beat, read_durability, read_lag
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.request_log import RequestTelemetry

_log = logging.getLogger(__name__)
SAMPLE_SECONDS = 1.0
SYNCHRONISE_SECONDS = 5.0
LAG_SECONDS = 1.0
CLOCK_SECONDS = 60.0
FIRST_CLOCK_SECONDS = 1.0  # Until the first synchronisation succeeds.


class Queue(Protocol):
    """The queue of single records."""

    @property
    def queued(self) -> int:
        """How many records wait."""

    @property
    def capacity(self) -> int:
        """How many may wait."""


class Sampler:
    """Samples the queue and the pool every SAMPLE_SECONDS. Shares when each service was last active with the other
    processes, and asks the database what a commit waits for, every SYNCHRONISE_SECONDS. Looks at the database's clock
    every CLOCK_SECONDS, and at the lag of the database for large reads every LAG_SECONDS."""

    def __init__(
        self,
        metrics: Metrics,
        requests: RequestTelemetry,
        queue: Queue,
        database: Database,
        clock: Clock,
        read_database: Database | None = None,
    ) -> None:
        """Create the sampler. `read_database` is the one for large reads; None if they have none of their own."""
        self._metrics = metrics
        self._requests = requests
        self._queue = queue
        self._database = database
        self._clock = clock
        self._read_database = read_database
        self._reads_lag = True
        self._reads_clock = True
        self._durability: Durability | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the database's clock and durability, for at most PARTING_SECONDS, then sample in the background."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                await self._synchronise_clock()
                await self._look_at_durability()
        self._tasks = [
            asyncio.create_task(_repeat(self._sample, SAMPLE_SECONDS)),
            asyncio.create_task(_repeat(self._synchronise, SYNCHRONISE_SECONDS)),
            asyncio.create_task(_repeat(self._look_at_durability, SYNCHRONISE_SECONDS)),
            asyncio.create_task(self._follow_clock()),
        ]
        if self._read_database is not None:
            self._tasks.append(
                asyncio.create_task(_repeat(partial(self._look_at_lag, self._read_database), LAG_SECONDS))
            )

    async def stop(self) -> None:
        """Take a last sample and save what is not saved yet, for at most PARTING_SECONDS."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sample()
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                await self._synchronise()

    async def expose(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        await self._sample()
        return await asyncio.to_thread(self._metrics.expose)

    async def _sample(self) -> None:
        self._requests.flush()
        self._metrics.sample(self._queue.queued, self._queue.capacity, self._database.use())

    async def _synchronise(self) -> None:
        try:
            await self._metrics.silence.synchronise(self._database)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("the last activity of each service could not be saved yet: %s", error)

    async def _look_at_durability(self) -> None:
        """Read what a commit waits for. Log it when it changes."""
        with suppress(DatabaseUnavailableError, asyncpg.PostgresError):  # Requests and /readyz report this fault.
            async with self._database.read_connection() as connection:
                durability = await read_durability(connection)
            self._metrics.durability(durability)
            if durability != self._durability:
                _log.info("database: %s", durability)
                for fault in durability.faults:
                    _log.warning("database: %s", fault)
            self._durability = durability

    async def _look_at_lag(self, read_database: Database) -> None:
        """Commit something on the primary, and look how far behind it the other one is."""
        lag = None
        try:
            async with self._database.connection() as connection:
                await beat(connection)
            async with read_database.read_connection() as connection:
                lag = await read_lag(connection)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            if self._reads_lag:  # said once, not every time
                _log.warning("the lag of the database for large reads cannot be read: %s", error)
        self._reads_lag = lag is not None
        self._metrics.read_lag(lag)

    async def _follow_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SECONDS if self._clock.is_synchronised else FIRST_CLOCK_SECONDS)
            await self._synchronise_clock()

    async def _synchronise_clock(self) -> None:
        try:
            async with self._database.connection() as connection:
                await self._clock.synchronise(connection)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            if self._reads_clock:  # Log the fault once, not every time.
                _log.warning("the database's clock cannot be read: %s", error)
            self._reads_clock = False
            return
        self._reads_clock = True
        self._metrics.clock_skew(self._clock.skew)
        if fault := self._clock.fault:
            _log.error("%s", fault)


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await work()
        await asyncio.sleep(seconds)
