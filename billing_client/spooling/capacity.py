"""The bounds of a spool: who finds no room waits in line."""

import asyncio
import logging
from collections import deque

from billing_client._errors import SpoolFullError

_logger = logging.getLogger(__name__)


class Room:
    """Room for so many records and bytes. What is taken may exceed it, where a spool came with more."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records = 0
        self._bytes = 0
        self._is_told = False
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def occupy(self, records: int, size: int) -> None:
        """Take room, whether there is any or not."""
        self._records += records
        self._bytes += size

    async def reserve(self, size: int, wait: bool) -> None:
        """Take room for one record, in the order of the calls. Raises SpoolFullError where it may not wait."""
        if not self._line and self._fits(size):
            self.occupy(1, size)
            return
        if not wait:
            raise SpoolFullError(f"the spool is full: {self._records} records, {self._bytes} bytes")
        if not self._is_told:
            _logger.warning("record() waits: the spool holds %d records, %d bytes", self._records, self._bytes)
            self._is_told = True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # its room was taken at the same moment
                self.release(1, size)
            self._admit()  # whoever stands behind may be smaller
            raise

    def release(self, records: int, size: int) -> None:
        """Give room back."""
        self.occupy(-records, -size)
        self._admit()

    def close(self) -> None:
        """Send away who waits: they get a RuntimeError."""
        for _, turn in self._line:
            if not turn.done():
                turn.set_exception(RuntimeError("this recorder was closed"))
        self._line.clear()

    def _fits(self, size: int) -> bool:
        return self._records < self._max_records and self._bytes + size <= self._max_bytes

    def _admit(self) -> None:
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            size, turn = self._line.popleft()
            if not turn.done():
                self.occupy(1, size)
                turn.set_result(None)
