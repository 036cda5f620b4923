"""Streams of Server-Sent Events (HTML Living Standard, section 9.2): one reader of changes for all of a process.

sse-starlette is not used: it replaces uvicorn's signal handler, keeps one flag for all servers of a process, which ends
every stream of the next one, and runs three tasks a stream.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, TypeAlias

import asyncpg
import msgspec
from msgspec import Struct
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from billing_client.contract.wire import ChangeEvent
from billing_service.database.pool import PARTING_SECONDS, Database, DatabaseUnavailableError
from billing_service.http.auth import Caller
from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem
from billing_service.http.shutdown import Shutdown
from billing_service.ledger.changes import Change, Customers, Kind, read_changes, read_range
from billing_service.pace import USUAL, Pace

_log = logging.getLogger(__name__)
LATE_SECONDS = 10.0  # how much later than one with a higher number a change may become visible
MAX_READ = 1_000  # changes at a time, and after the last event that a client has seen
SHARE_OF_CALLER = 10  # one caller may have one of so many streams
EVENT_STREAM = "text/event-stream"
_NUMBER = re.compile(r"[0-9]{1,18}")
_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would collect the stream
RESET = b"event: reset\ndata: {}\n"
_RETRY = b"retry: 2000\n\n"  # milliseconds
_encode = msgspec.json.Encoder().encode

FindCaller: TypeAlias = Callable[[], Awaitable[Caller | None]]
"""Looks up anew who opened a stream: None, or a ProblemError (401), where the key or the session is no longer valid."""


class Place:
    """How far changes were read. They may become visible in another order than that of their numbers.

    Attributes:
        floor: Everything up to this number was read.
        seen: What was read above it, and when.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.seen: dict[int, float] = {}

    def advance(self, numbers: Iterable[int]) -> None:
        """Note what was read. A gap that stays open for LATE_SECONDS is that of a transaction that failed."""
        now = time.monotonic()
        self.seen |= dict.fromkeys(numbers, now)
        late = [number for number, at in self.seen.items() if at < now - LATE_SECONDS]
        self.floor = max([self.floor, *late])
        while self.floor + 1 in self.seen:
            self.floor += 1
        self.seen = {number: at for number, at in self.seen.items() if number > self.floor}


class Stream:
    """What one client has not been told yet. A slow one is told later and all at once, so that it takes no memory.

    Args:
        customer_id: The only customer that it is about; None for all.
        place: The number up to which it needs not be told anything.
        heartbeat_seconds: How often it says something while nothing changes.

    Attributes:
        place: The number up to which everything was told to it, or is about to be.
    """

    def __init__(self, customer_id: str | None, place: int, heartbeat_seconds: float) -> None:
        self.customer_id = customer_id
        self.place = place
        self._heartbeat_seconds = heartbeat_seconds
        self._told = -1
        self._untold: dict[Kind, Customers] = {}
        self._is_reset = False
        self._is_over = False
        self._wake = asyncio.Event()

    def change(self, change: Change) -> None:
        """Tell of a change; a stream of one customer must be told only of what may be about that."""
        customers = self._untold.setdefault(change.kind, Customers())
        if self.customer_id is not None:
            customers.add((self.customer_id,))
        else:
            customers.add(change.customer_ids, more=change.more)
        self._wake.set()

    def reset(self) -> None:
        """Tell that everything may have changed."""
        self._is_reset = True
        self._wake.set()

    def end(self) -> None:
        """End the stream once what is known was sent."""
        self._is_over = True
        self._wake.set()

    async def chunks(self, seconds: float) -> AsyncIterator[bytes]:
        """What to send, for so many seconds."""
        yield _RETRY
        end = time.monotonic() + seconds
        while True:
            yield self._take()
            wait = min(self._heartbeat_seconds, end - time.monotonic())
            if self._is_over or wait <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            self._wake.clear()

    def _take(self) -> bytes:
        """The events, of which only the last has the number: whoever got some of them is told them all again."""
        untold, self._untold = self._untold, {}
        is_reset, self._is_reset = self._is_reset, False
        events = [RESET] if is_reset else [_event(kind, customers) for kind, customers in untold.items()]
        if not events and self._told == self.place:
            return b":\n\n"
        self._told = self.place
        return b"\n".join([*events, b""])[:-1] + b"id: %d\n\n" % self.place


def _event(kind: Kind, customers: Customers) -> bytes:
    data = _encode(ChangeEvent(customer_ids=sorted(customers.ids), more=customers.more))
    return b"event: %b\ndata: %b\n" % (kind.encode(), data)


class _Watcher(Struct, frozen=True, eq=False):
    """A stream, and how to look up whom it is for; None where no key was needed."""

    stream: Stream
    find_caller: FindCaller | None

    async def may_go_on(self) -> bool:
        """Whether its caller may still read what it tells. Raises DatabaseUnavailableError."""
        if self.find_caller is None:
            return True
        try:
            caller = await self.find_caller()
        except ProblemError:
            return False
        return (
            caller is not None
            and "usage:read" in caller.scopes
            and caller.customer_id in (None, self.stream.customer_id)
        )


class EventStreams:
    """The streams of this process. One task reads changes for all of them, while there are any."""

    def __init__(self, database: Database, shutdown: Shutdown, most: int, pace: Pace = USUAL) -> None:
        self._database = database
        self._pace = pace
        self._shutdown = shutdown
        self._most = most
        self._watchers: set[_Watcher] = set()
        self._of_customer: dict[str | None, set[Stream]] = {}
        self._held_by: Counter[str] = Counter()
        self._reads = 0  # that gave something
        self._reader: asyncio.Task[None] | None = None
        self._is_reading = True

    @property
    def open(self) -> int:
        """How many streams there are."""
        return len(self._watchers)

    async def begin(self, customer_id: str | None, after: int | None) -> Stream:
        """A stream that has everything to tell since a number, to be opened at once.

        Args:
            customer_id: The only customer that it is about; None for all.
            after: The number that the client saw last; None where it saw none. It is told that everything may have
                changed, as is one that saw a number too long ago.

        Raises:
            DatabaseUnavailableError: The database cannot be read.
        """
        reads = self._reads
        async with self._database.read_connection() as connection:
            kept = await read_range(connection)
            missed = None
            if after is not None and kept.first - 1 <= after <= kept.last:
                missed = await read_changes(connection, after, (), MAX_READ)
        stream = Stream(customer_id, kept.last, self._pace.heartbeat_seconds)
        if missed is None or len(missed) == MAX_READ or reads != self._reads:
            stream.reset()
        else:
            for change in missed:
                if customer_id is None or change.more or customer_id in change.customer_ids:
                    stream.change(change)
        return stream

    def require_room(self, caller: str) -> None:
        """Raise ProblemError (503) if this process stops, or has too many streams, in all or of this caller."""
        if self._shutdown.announced:
            raise _no_room("The service is stopping.")
        if len(self._watchers) >= self._most:
            raise _no_room("This process has as many event streams as it may have.")
        if self._held_by[caller] >= max(1, self._most // SHARE_OF_CALLER):
            raise _no_room("This API key has as many event streams as it may have. Close some, or share one.")

    @contextmanager
    def opened(self, stream: Stream, caller: str, find_caller: FindCaller | None) -> Iterator[None]:
        """Tell the stream what changes during the block.

        Args:
            stream: The stream.
            caller: Whose it is, for the bound: its key id or address.
            find_caller: Looks up its caller, None where no key was needed. When the key is no longer valid, or may no
                longer read what the stream tells, it ends.
        """
        watcher = _Watcher(stream, find_caller)
        self._watchers.add(watcher)
        self._of_customer.setdefault(stream.customer_id, set()).add(stream)
        self._held_by[caller] += 1
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(Place(stream.place)), context=Context())
        try:
            yield
        finally:
            self._watchers.discard(watcher)
            streams = self._of_customer[stream.customer_id]
            streams.discard(stream)
            if not streams:
                del self._of_customer[stream.customer_id]
            self._held_by[caller] -= 1
            if not self._held_by[caller]:
                del self._held_by[caller]

    async def close(self) -> None:
        """End all streams."""
        for watcher in self._watchers:
            watcher.stream.end()
        if self._reader is not None:  # it ends once no stream is left
            await asyncio.wait([self._reader], timeout=PARTING_SECONDS)

    async def _read(self, place: Place) -> None:
        """Tell all streams what changes, until there are none."""
        checked_at = time.monotonic()
        try:
            while self._watchers:
                await asyncio.sleep(self._pace.poll_seconds)
                if self._shutdown.announced:
                    for watcher in self._watchers:
                        watcher.stream.end()
                await self._poll(place)
                if time.monotonic() > checked_at + self._pace.key_seconds:
                    await self._end_revoked()
                    checked_at = time.monotonic()
        finally:
            self._reader = None

    async def _poll(self, place: Place) -> None:
        try:
            async with self._database.read_connection() as connection:
                changes = await read_changes(connection, place.floor, place.seen, MAX_READ)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            if self._is_reading:  # said once, not every time
                _log.warning("event streams are not told what changes: %s", error)
            self._is_reading = False
            return
        self._is_reading = True
        self._reads += bool(changes)
        place.advance(change.number for change in changes)
        for watcher in self._watchers:
            watcher.stream.place = place.floor
        for change in changes:
            for stream in self._concerned(change):
                stream.change(change)

    def _concerned(self, change: Change) -> Iterator[Stream]:
        yield from self._of_customer.get(None, ())
        if change.more:
            yield from (each.stream for each in self._watchers if each.stream.customer_id is not None)
            return
        for customer_id in change.customer_ids:
            yield from self._of_customer.get(customer_id, ())

    async def _end_revoked(self) -> None:
        """End the streams whose API key is no longer valid. All keys are looked up together."""
        watchers = list(self._watchers)
        found = await asyncio.gather(*(each.may_go_on() for each in watchers), return_exceptions=True)
        for watcher, may_go_on in zip(watchers, found, strict=True):
            if may_go_on is False:  # an error says nothing of the key
                watcher.stream.end()


def _no_room(why: str) -> ProblemError:
    return ProblemError(problem("unavailable", why), {"Retry-After": RETRY_AFTER_SECONDS})


def last_event_id(fields: Mapping[bytes, bytes]) -> int | None:
    """The number in `Last-Event-ID`; None where there is none, or one that is not of this service."""
    value = fields.get(b"last-event-id", b"").decode("latin-1")
    return int(value) if _NUMBER.fullmatch(value) else None


class EventStreamResponse(StreamingResponse):
    """A response that is a stream. The stream is registered while it is being sent."""

    def __init__(
        self, streams: EventStreams, stream: Stream, caller: str, find_caller: FindCaller | None, seconds: float
    ) -> None:
        super().__init__(stream.chunks(seconds), headers=_HEADERS, media_type=EVENT_STREAM)
        self._opened: Any = (stream, caller, find_caller)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # the response has no body
            await Response(headers=_HEADERS, media_type=EVENT_STREAM)(scope, receive, send)
            return
        with self._streams.opened(*self._opened):
            await super().__call__(scope, receive, send)
