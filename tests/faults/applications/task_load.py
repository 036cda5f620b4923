"""Clients of the Celery application: tasks that are sent until they are done."""

import asyncio
import itertools
import time
from collections.abc import Collection

from celery import Celery

from tests.faults.applications.names import Journal

AGAIN_SECONDS = 3.0  # without a task that is done, until those that are missing are sent again
LOOK_SECONDS = 0.01


class TaskLoad:
    """Sends tasks, each of its own name. `pids` are the processes that have done some."""

    def __init__(self, broker: str, journal: Journal) -> None:
        self.answered: set[str] = set()
        self.streams: set[str] = set()  # no client of a task hangs up
        self._app = Celery(broker=broker)
        self._journal = journal
        self._numbers = itertools.count()

    @property
    def pids(self) -> set[int]:
        return self._journal.pids

    async def make(self, requests: int, at_once: int) -> None:
        """Send so many more tasks, at most so many at once; returns when all are done."""
        names = [f"task-{next(self._numbers)}" for _ in range(requests)]
        for first in range(0, requests, at_once):
            await self.repeat(names[first : first + at_once])

    async def repeat(self, names: Collection[str]) -> None:
        """Send these tasks until they are done: what a killed worker had taken is lost, or comes late."""
        missing = set(names)
        while missing:
            await asyncio.to_thread(self._send, missing)
            progress = time.monotonic()
            while missing and time.monotonic() < progress + AGAIN_SECONDS:
                await asyncio.sleep(LOOK_SECONDS)
                left = missing - self._journal.read()
                progress = time.monotonic() if len(left) < len(missing) else progress
                missing = left
        self.answered |= set(names)

    def _send(self, names: Collection[str]) -> None:
        for name in names:
            self._app.send_task("record", [name])
