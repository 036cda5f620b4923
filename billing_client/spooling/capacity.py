"""The bounds of a spool. A call that finds it full waits for its turn."""

import asyncio
import logging
from collections import deque

from billing_client._errors import SpoolFullError

_logger = logging.getLogger(__name__)


class Capacity:
    """Counts records and bytes against a maximum. A spool that already held more when it was opened may exceed it."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records = 0
        self._bytes = 0
        self._has_warned = False
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def occupy(self, records: int, size: int) -> None:
        """Count what is there, even beyond the maximum."""
        self._records += records
        self._bytes += size

    async def reserve(self, size: int, wait: bool) -> None:
        """Reserve room for one record, in the order of the calls. Raises SpoolFullError if it may not wait."""
        if not self._queue and self._fits(size):
            self.occupy(1, size)
            return
        if not wait:
            raise SpoolFullError(
                f"the spool is full: it holds {self._records} records, {self._bytes} bytes; record again later, "
                "or raise max_records and max_bytes"
            )
        if not self._has_warned:
            _logger.warning("record() waits: the spool holds %d records, %d bytes", self._records, self._bytes)
            self._has_warned = True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # its room was reserved at the same moment
                self.release(1, size)
            self._admit()  # the next in the queue may be smaller
            raise

    def release(self, records: int, size: int) -> None:
        """Free the room of records that are gone."""
        self.occupy(-records, -size)
        self._admit()

    def close(self) -> None:
        """Fail the calls that wait, with a RuntimeError."""
        for _, turn in self._queue:
            if not turn.done():
                turn.set_exception(RuntimeError("this recorder was closed"))
        self._queue.clear()

    def _fits(self, size: int) -> bool:
        return self._records < self._max_records and self._bytes + size <= self._max_bytes

    def _admit(self) -> None:
        while self._queue and (self._queue[0][1].done() or self._fits(self._queue[0][0])):
            size, turn = self._queue.popleft()
            if not turn.done():
                self.occupy(1, size)
                turn.set_result(None)
