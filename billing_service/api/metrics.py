"""The endpoint that Prometheus asks, and what is taken down between two of its questions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_service.database.pool import PARTING_SECONDS, Database, DatabaseUnavailableError
from billing_service.http.auth import caller_of
from billing_service.http.operations import Operation
from billing_service.ledger.group_commit import Recorder
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.request_log import Journal

_log = logging.getLogger(__name__)
SAMPLE_SECONDS = 1.0
SYNCHRONISE_SECONDS = 5.0


class Monitor:
    """Keeps what the metrics cannot see by themselves: how full queue and pool are, what other processes recorded."""

    def __init__(self, metrics: Metrics, journal: Journal, recorder: Recorder, database: Database) -> None:
        self._metrics = metrics
        self._journal = journal
        self._recorder = recorder
        self._database = database
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(_repeat(self._sample, SAMPLE_SECONDS)),
            asyncio.create_task(_repeat(self._synchronise, SYNCHRONISE_SECONDS)),
        ]

    async def stop(self) -> None:
        """Take down the last of it, and save what was not saved yet, where the database takes it at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sample()
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                await self._synchronise()

    async def expose(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        await self._sample()
        return await asyncio.to_thread(self._metrics.expose)

    async def _sample(self) -> None:
        self._journal.write()
        self._metrics.sample(self._recorder.queued, self._recorder.capacity, self._database.use())

    async def _synchronise(self) -> None:
        try:
            await self._metrics.activity.synchronise(self._database)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("when each service was last active is not saved yet: %s", error)


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await work()
        await asyncio.sleep(seconds)


async def metrics(request: Request, _: NoQuery) -> Response:
    """Say what the service counted and timed, in the text format of Prometheus."""
    caller_of(request).require_reach(None)  # it names services, and how much of all is used
    monitor: Monitor = request.app.state.monitor
    return Response(await monitor.expose(), media_type=CONTENT_TYPE_LATEST)


OPERATIONS = [
    Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        tag="service",
        scope="usage:read",
        media_types=(CONTENT_TYPE_LATEST.partition(";")[0],),
    )
]
