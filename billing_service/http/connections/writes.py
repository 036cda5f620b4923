"""Writing to a connection: a head together with its body, and for whoever does not read, only so much for so long."""

import asyncio
import logging

import msgspec

from billing_client.contract.wire import ProblemDetails
from billing_service.http.connections.load import ConnectionLoad
from billing_service.http.errors import PROBLEM_TYPE, RETRY_AFTER_SECONDS, SAFE_HEADERS

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BYTES_PER_SECOND = 8 * 1024
_log = logging.getLogger(__name__)


class JoinedWrites:
    """A connection on which the head of an answer waits for what follows it, so that both go out in one write.

    uvicorn writes them apart, and every write wakes the caller: 79 to 66 µs a request.
    """

    __slots__ = ("_head", "_transport", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info, self.is_closing = transport.get_extra_info, transport.is_closing
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and data != CONTINUE:
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that nothing follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class UnreadAnswer:
    """The part of a connection's answers that its receiver has not taken.

    A receiver takes BYTES_PER_SECOND, on average over each period of `seconds`, or the connection is closed.

    Attributes:
        held: The bytes that were not taken when writing was paused; memory is free again when all of them were.
        since: When writing was paused.
    """

    def __init__(self, transport: asyncio.Transport, load: ConnectionLoad, seconds: float) -> None:
        self.held, self.since = 0, 0.0
        self._transport = transport
        self._load = load
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0  # at the start of the period, or at the start of the pause where that came later
        self._taken = 0  # in earlier pauses of this period

    def pause(self) -> None:
        """The system takes no more at present."""
        self.held = self._left = self._transport.get_write_buffer_size()
        self.since = self._loop.time()
        if self._timer is None:
            self._begin_period()
        self._load.hold(self, self.since)

    def resume(self) -> None:
        """The system has taken everything. The period goes on, so that pauses add up."""
        self._load.release(self)
        self._taken += self._left
        self.held = 0

    def give_up(self) -> None:
        """Close the connection at once."""
        _log.info("a connection was closed: its receiver left %d bytes of an answer", self.held)
        self.end()
        self._transport.abort()

    def end(self) -> None:
        """The connection is closed."""
        self._load.release(self)
        if self._timer is not None:
            self._timer.cancel()

    def _begin_period(self) -> None:
        self._taken = 0
        self._timer = self._loop.call_later(self._seconds, self._end_period)

    def _end_period(self) -> None:
        self._timer = None
        if not self.held:
            return
        left = self._transport.get_write_buffer_size()
        if self._taken + self._left - left < self._seconds * BYTES_PER_SECOND:
            self.give_up()
            return
        self._left = left
        self._begin_period()


def refusal(details: ProblemDetails[str], request_id: bytes) -> bytes:
    """The answer to a request that no application sees; it closes its connection."""
    body = msgspec.json.encode(details)
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": len(body), "Connection": "close", **SAFE_HEADERS}
    headers["X-Request-Id"] = request_id.decode()
    if details.code == "unavailable":
        headers["Retry-After"] = RETRY_AFTER_SECONDS
    lines = [f"HTTP/1.1 {details.status} {details.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
