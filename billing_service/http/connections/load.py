"""The memory that the connections of one process hold, and which of them to give up when it is too much.

Two sums have a bound: the bytes of requests that have not arrived completely, the connections themselves included, and
the bytes of answers that their receivers have not taken. Above a bound the connection goes that occupied the most for
the longest (bytes x seconds): whoever stalls or trickles, rather than a newcomer or a fast sender.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from billing_client.contract.wire import ProblemDetails
from billing_service.settings import Settings

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
BODY_BYTES_PER_SECOND = 64 * 1024
MEASURE_EVERY_BYTES = 4 * 1024 * 1024
BYTES_PER_SECOND = 8 * 1024
_log = logging.getLogger(__name__)


class ServedApp(Protocol):
    """What a connection needs of the application that it serves."""

    settings: Settings

    def log_refusal(
        self,
        details: ProblemDetails[str],
        http_request_id: bytes,
        method: str | None,
        seconds: float,
        scope: Scope | None,
    ) -> None:
        """Log and count a request that was refused before the application saw all of it.

        Args:
            details: The answer.
            http_request_id: The `X-Request-Id` of the answer.
            method: The method, None where the head did not arrive.
            seconds: How long the request had been arriving; 0 where it came in one piece.
            scope: The request as the application got it, which is about to be told that its body ends; None where it
                did not get it.
        """


class Receiving(Protocol):
    """A connection, as far as it holds what it received."""

    def held_bytes(self) -> int:
        """The bytes it holds, itself included."""

    def held_since(self, now: float) -> float:
        """Since when, by the clock of the loop, which says `now`."""

    def give_up(self) -> None:
        """Refuse what is arriving, or close the connection."""


class Sending(Protocol):
    """An answer that its receiver has not taken completely: `held` bytes, `since` a time by the clock of the loop."""

    held: int
    since: float

    def give_up(self) -> None:
        """Close the connection at once."""


class ConnectionLoad:
    """What the connections of one process hold.

    What was received is measured rather than booked: a read costs one addition, and each time that MEASURE_EVERY_BYTES
    have come all connections are asked what they hold. Answers are booked, since few are not taken at once.

    Attributes:
        app: The application, None where it is not this service's.
        unmeasured: The bytes that may have been added since the connections were last asked what they hold. Whoever
            reads adds to them, and calls `measure` above MEASURE_EVERY_BYTES.
        largest_body_seconds: How long the largest body may take, which is at BODY_BYTES_PER_SECOND.
    """

    def __init__(self, connections: Collection[Any], app: ServedApp | None) -> None:
        self.app = app
        self.largest_body_seconds = app.settings.max_body_bytes / BODY_BYTES_PER_SECOND if app else 0.0
        self.unmeasured = 0
        self._connections: Collection[Receiving] = connections
        self._max_receiving, self._max_sending = _bounds(app)
        self._sending: set[Sending] = set()
        self._sending_bytes = 0

    def measure(self) -> None:
        """Ask all connections what they hold, and give up as many as it takes to get below the bound."""
        self.unmeasured = 0
        now = asyncio.get_running_loop().time()
        held = {connection: connection.held_bytes() for connection in self._connections}
        excess = sum(held.values()) - self._max_receiving
        if excess <= 0:
            return
        for connection in sorted(held, key=lambda each: held[each] * (now - each.held_since(now)), reverse=True):
            connection.give_up()
            excess -= held[connection]
            if excess <= 0:
                return

    def hold(self, answer: Sending, now: float) -> None:
        """Book an answer that is not taken at once. A lone one may be larger than the bound."""
        self._sending.add(answer)
        self._sending_bytes += answer.held
        while self._sending_bytes > self._max_sending and len(self._sending) > 1:
            max(self._sending, key=lambda each: each.held * (now - each.since)).give_up()

    def release(self, answer: Sending) -> None:
        """An answer was taken, or given up."""
        if answer in self._sending:
            self._sending.remove(answer)
            self._sending_bytes -= answer.held


_LOADS: WeakKeyDictionary[ServerState, ConnectionLoad] = WeakKeyDictionary()


def connection_load(state: ServerState, config: Config) -> ConnectionLoad:
    """The load of the server that has this state."""
    load = _LOADS.get(state)
    if load is None:
        app = config.loaded_app
        served = cast("ServedApp", app) if hasattr(app, "log_refusal") else None
        load = _LOADS[state] = ConnectionLoad(state.connections, served)
    return load


def _bounds(app: ServedApp | None) -> tuple[int, int]:
    if app is None:
        return DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES
    settings = app.settings
    # Below what the application takes at once, so that whoever stalls goes before anybody else is refused.
    return max(settings.max_receiving_bytes * 3 // 4, 2 * settings.max_body_bytes), settings.max_sending_bytes


def is_too_slow(size: int, seconds: float) -> bool:
    """Whether so many bytes in so many seconds are less than a peer must send, or take."""
    return size < seconds * BYTES_PER_SECOND


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
        if is_too_slow(self._taken + self._left - left, self._seconds):
            self.give_up()
            return
        self._left = left
        self._begin_period()
