"""The bounds of a spool: of what is to be delivered, for which calls wait, and of what is kept after that."""

import asyncio
import logging
import sys
from collections import deque
from typing import NamedTuple, Self

from billing_client._errors import RecorderClosedError, SpoolFullError

_CLOSED = "the recorder was closed while its spool was full; this use was not recorded"
_logger = logging.getLogger(__name__)


class _Turn(NamedTuple):
    """A call that waits for room."""

    records: int
    size: int
    admitted: asyncio.Future[None]


class KeptBounds(NamedTuple):
    """For how many seconds delivered records are kept, how many, and of how many bytes at most."""

    seconds: float
    records: int
    bytes: int

    def are_exceeded(self, records: int, size: int, age: float) -> bool:
        """Whether so many are too many, or the oldest is too old."""
        return records > self.records or size > self.bytes or age > self.seconds


class Capacity:
    """Counts records and bytes against a maximum. A spool that already held more when it was opened may exceed it."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records = 0
        self._bytes = 0
        self._has_warned = False
        self._is_closed = False
        self._queue: deque[_Turn] = deque()

    @classmethod
    def unbounded(cls) -> Self:
        """That of a spool which takes no more usage."""
        return cls(sys.maxsize, sys.maxsize)

    @property
    def is_waited_for(self) -> bool:
        """Whether a call waits for room."""
        return bool(self._queue)

    def occupy(self, records: int, size: int) -> None:
        """Count what is there, even beyond the maximum."""
        self._records += records
        self._bytes += size

    def reserve_now(self, records: int, size: int) -> bool:
        """Reserve room if there is some and nobody waits for it; whether there was.

        Raises SpoolFullError if it can never fit.
        """
        if records > self._max_records or size > self._max_bytes:
            raise SpoolFullError(f"{records} records of {size} bytes never fit; raise max_records and max_bytes")
        if self._queue or not self._fits(records, size):
            return False
        self.occupy(records, size)
        return True

    async def reserve(self, records: int, size: int, timeout: float) -> None:
        """Reserve room, in the order of the calls.

        Raises SpoolFullError if there is none within the timeout, RecorderClosedError.
        """
        if self._is_closed:
            raise RecorderClosedError(_CLOSED)
        if self.reserve_now(records, size):
            return
        if timeout <= 0:
            raise self.full()
        if not self._has_warned:
            _logger.warning("record() waits: the spool holds %d records, %d bytes", self._records, self._bytes)
            self._has_warned = True
        turn = _Turn(records, size, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn.admitted
        except TimeoutError as error:
            self._leave(turn)
            raise self.full(f"for {timeout:g} s") from error
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    def release(self, records: int, size: int) -> None:
        """Free the room of records that are gone."""
        self.occupy(-records, -size)
        self._admit()

    def close(self) -> None:
        """Fail the calls that wait, with a RecorderClosedError, and those that come."""
        self._is_closed = True
        for turn in self._queue:
            if not turn.admitted.done():
                turn.admitted.set_exception(RecorderClosedError(_CLOSED))
        self._queue.clear()

    def full(self, since: str = "") -> SpoolFullError:
        """The error of a spool that has no room."""
        return SpoolFullError(
            f"the spool is full{since and f' {since}'}: it holds {self._records} records, {self._bytes} bytes; "
            "record again later, or raise max_records and max_bytes"
        )

    def _leave(self, turn: _Turn) -> None:
        """A call gave up. Its room may have been reserved at the same moment, and the next may be smaller."""
        if turn.admitted.done() and not turn.admitted.cancelled() and turn.admitted.exception() is None:
            self.release(turn.records, turn.size)
        self._admit()

    def _fits(self, records: int, size: int) -> bool:
        return self._records + records <= self._max_records and self._bytes + size <= self._max_bytes

    def _admit(self) -> None:
        while self._queue and (self._queue[0].admitted.done() or self._fits(*self._queue[0][:2])):
            turn = self._queue.popleft()
            if not turn.admitted.done():
                self.occupy(turn.records, turn.size)
                turn.admitted.set_result(None)
