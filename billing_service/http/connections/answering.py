"""The sending half of a connection: requests are answered one after the other, and no faster than they are read."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from billing_service.http.connections import messages
from billing_service.http.connections.exchange import Exchange
from billing_service.http.connections.load import UnreadAnswer, connection_load


class Answerer:
    """The one task in which an application answers the requests of a connection, one after the other.

    With a task for each request, as in uvicorn, a record takes 4 % more instructions.
    """

    def __init__(self, app: Any, tasks: set[asyncio.Task[None]]) -> None:
        """Start no task before the first request.

        Args:
            app: The ASGI application.
            tasks: Holds the task while a request is being answered: the server waits for all of them when it stops.
        """
        self._app = app
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._next: Exchange | None = None
        self._at_work: Any = None  # an Exchange
        self._ended = False
        self._idle: asyncio.Future[None] | None = None

    def begin(self, exchange: Exchange) -> None:
        """Have a request answered, once the application is done with the one before it."""
        self._next = exchange
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._wake()
        self._tasks.add(self._task)

    def end(self) -> None:
        """End the task when the request at work is done: the connection is closed, which the request is told."""
        self._ended = True
        messages.disconnect(self._at_work)  # uvicorn tells only the latest request that came
        self._wake()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _run(self) -> None:
        task: Any = self._task
        try:
            while self._take():
                await self._at_work.run_asgi(self._app)
                self._at_work.scope = None  # which holds the request: neither would be freed before a collection
                self._at_work = None  # an idle connection keeps nothing of its latest request
                if self._next is None and not self._ended:
                    self._tasks.discard(task)
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
                    self._idle = None
        finally:
            self._tasks.discard(task)

    def _take(self) -> bool:
        self._at_work, self._next = self._next, None
        return self._at_work is not None


class AnsweringProtocol(HttpToolsProtocol):
    """Sends the answers of a connection. No request is begun while the answer before it waits for its receiver."""

    send_seconds = 20.0
    _nothing: Any = None
    __slots__ = ("_answerer", "_completion_waits", "_in_head", "_joined", "_load", "_raw", "_refused", "_unread")

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._in_head = False  # whether a head is arriving
        self._refused = False  # nothing more is parsed; what came before it is still answered
        self._completion_waits = False
        self._unread: UnreadAnswer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._load = connection_load(self.server_state, self.config)
        self._raw = transport
        self._joined = messages.JoinedWrites(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))  # it has all that uvicorn uses of one
        transport.set_write_buffer_limits(0)  # all that the system does not take at once counts as unread
        self._answerer = Answerer(self.app, self.tasks)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._unread is not None:
            self._unread.end()
        super().connection_lost(exc)
        self._answerer.end()
        while self.pipeline:
            self.pipeline.pop()[0].scope = self._nothing

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = UnreadAnswer(self._raw, self._load, self.send_seconds)
        self._unread.pause()

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.resume()
        super().resume_writing()
        if self._completion_waits:
            self._completion_waits = False
            self.on_response_complete()

    def on_response_complete(self) -> None:
        if self._joined.head:
            self._joined.flush()
        flow, is_closing = self.flow, self.transport.is_closing()
        if flow.write_paused and not is_closing:
            flow.pause_reading()
            self._completion_waits = True
            return
        cycle: Any = self.cycle
        if cycle.response_complete:  # an idle connection keeps nothing of its latest request
            cycle.scope = None
            cycle.body = b""
            if not self._in_head:
                self.headers = []
        self.server_state.total_requests += 1
        if is_closing:
            return
        if flow.read_paused:
            flow.resume_reading()
        if self.pipeline:
            waiting: Any = self.pipeline.pop()[0]
            self._answerer.begin(waiting)
        elif self._refused:
            self.transport.close()
        else:
            self._rest()

    def _rest(self) -> None:
        """All that came is answered."""
        raise NotImplementedError
