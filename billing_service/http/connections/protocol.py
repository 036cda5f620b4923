"""HTTP as uvicorn speaks it, with bounds on all that a peer makes a process hold, and every refusal as a problem."""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from billing_client.contract.wire import ProblemDetails
from billing_service.http.connections import messages
from billing_service.http.connections.answering import AnsweringProtocol
from billing_service.http.connections.exchange import Exchange, asgi_scope
from billing_service.http.connections.load import MEASURE_EVERY_BYTES, is_too_slow
from billing_service.http.connections.messages import MAX_HEAD_BYTES, MAX_HEADER_LINES
from billing_service.http.dispatch import http_request_id
from billing_service.http.errors import problem

MAX_PIPELINED = 64
LINGER_BYTES = 1024 * 1024
CONNECTION_BYTES = 9 * 1024  # what an idle connection takes, and what each header line and waiting request adds:
HEADER_BYTES = 128
REQUEST_BYTES = 4 * 1024


class BoundedHttpProtocol(AnsweringProtocol):
    """One connection.

    - What never becomes a request is refused: 400 for what is not HTTP, 505 for another version of it, 431 (RFC 6585)
      for a head or trailers that are too large, 408 for a request that does not arrive, 503 where the process holds too
      much of unfinished requests.
      After a refusal LINGER_BYTES are read, for `linger_seconds`, so that the answer is not lost (RFC 9112, 9.6).
    - An `Upgrade` is ignored (RFC 9110, 7.8), and trailers are dropped (RFC 9110, 6.5.1).
    - A request arrives at BYTES_PER_SECOND, on average over each period of `receive_seconds`, and as a whole within
      `whole_request_seconds`, or longer where larger bodies are allowed. One that arrives at once sets no timer.
    - No request is begun while the answer before it waits for its receiver, see `UnreadAnswer`.
    """

    receive_seconds = 20.0
    whole_request_seconds = 120.0
    linger_seconds = 5.0
    __slots__ = (  # Python is slow with instances of more than 30 attributes
        "_after_chunk_head",
        "_arrived_bytes",
        "_arriving",
        "_begun",
        "_bytes_before",
        "_discarded_bytes",
        "_earlier_reads",
        "_fault",
        "_found",
        "_idle_since",
        "_lingers",
        "_own_bytes",
        "_read_bytes",
        "_since",
        "_timer",
        "_trailer_bytes",
    )

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._arriving = self._lingers = False
        self._read_bytes = 0  # of the latest read, and what requests that wait add to it
        self._own_bytes = 0  # the same, or 0 where another message ended in that read
        self._arrived_bytes = 0  # of the message, in all reads but the latest
        self._earlier_reads = 0  # the size of those reads, all of which may not be of the message
        self._trailer_bytes = 0  # once there are trailers: theirs and those of the head
        self._after_chunk_head: int | None = None  # bytes that came since the head of a chunk that has no data yet
        self._begun = self._since = 0.0  # when the message began to arrive, and the present period
        self._idle_since = 0.0  # when the latest answer was complete; 0 if something came since
        self._discarded_bytes = 0
        self._bytes_before = 0  # that had arrived when the present period began
        self._timer: asyncio.TimerHandle | None = None
        self._fault: ProblemDetails[str] | None = None
        self._found: tuple[Any, float] = (None, 0.0)  # a request at work, and when it was found

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._begun = self._since = self.loop.time()
        self._timer = self.loop.call_later(self.receive_seconds, self._check_time)
        self._load.unmeasured += CONNECTION_BYTES
        if self._load.unmeasured > MEASURE_EVERY_BYTES:
            self._load.measure()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    # What the parser finds

    def on_message_begin(self) -> None:
        cycle: Any = self.cycle  # of the latest request whose head has come; None before the first
        if cycle is not None and not cycle.response_complete:
            self._add_to_pipeline()
        self._in_head = self._arriving = True
        self._arrived_bytes = self._earlier_reads = self._trailer_bytes = 0
        self._begun = 0.0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._drop_trailer(name, value)
            return
        name = name.lower()
        if name in messages.WATCHED:
            self._watch(name, value.lower())
        self.headers.append((name, value))

    def _watch(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value == b"100-continue"
        elif value != b"chunked" or any(name == other for other, _ in self.headers):
            raise self._stop("validation_error", messages.BAD_CODINGS)  # RFC 9112, section 6.1

    def on_headers_complete(self) -> None:
        if self._earlier_reads + self._read_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADER_LINES:
            self._check_head()
        parser = self.parser
        version = parser.get_http_version()
        if version not in messages.VERSIONS:
            raise self._stop("http_version_not_supported", messages.OTHER_VERSION)
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise self._stop("validation_error", messages.NO_PROXY)
            return  # as if it had not come: it is parsed again, see `_read_without_upgrade`
        if not self.url.startswith(b"/"):
            self._read_target()
        self._in_head = False
        self._begin_exchange(version)

    def _begin_exchange(self, version: str) -> None:
        """Give the request to the application, once those before it are answered."""
        before: Any = self.cycle
        self.cycle = exchange = Exchange(
            asgi_scope(self, version),
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
        )
        if before is None or before.response_complete:
            self._answerer.begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def on_chunk_header(self) -> None:
        self._after_chunk_head = -self._own_bytes

    def on_body(self, body: bytes) -> None:
        self._after_chunk_head = None
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        cycle.add(body)
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._in_head:  # with an `Upgrade`
            return
        self._arriving = False
        self._own_bytes = 0
        self._after_chunk_head = None
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _add_to_pipeline(self) -> None:
        """Stop at a request too many: what came before it is answered, and the last answer closes the connection."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self.pipeline[0][0].keep_alive = False
            self._refused = True
            raise messages.HeadRefusedError
        self._read_bytes += REQUEST_BYTES

    def _check_head(self) -> None:
        if messages.head_size(self.url, self.headers) > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADER_LINES:
            raise self._stop("header_too_large", messages.TOO_LARGE)

    def _drop_trailer(self, name: bytes, value: bytes) -> None:
        before = self._trailer_bytes or messages.head_size(self.url, self.headers)
        self._trailer_bytes = before + len(name) + len(value) + messages.LINE_BYTES
        if self._trailer_bytes > MAX_HEAD_BYTES:
            raise self._stop("header_too_large", messages.TOO_LARGE)

    def _read_target(self) -> None:
        """Take the path of an address (RFC 9112, 3.2.2), whose authority counts in the place of `Host`."""
        if self.url == b"*":
            return
        if sum(name == b"host" for name, _ in self.headers) != 1 and self.parser.get_http_version() != "1.0":
            raise self._stop("validation_error", messages.BAD_REQUEST)  # RFC 9112, section 3.2
        try:
            authority, self.url = messages.split_address(self.url)
        except ValueError as error:
            raise self._stop("validation_error", messages.NO_PROXY) from error
        self.headers[:] = [(b"host", authority), *(line for line in self.headers if line[0] != b"host")]

    def _stop(self, code: str, detail: str) -> messages.HeadRefusedError:
        self._fault = problem(code, detail)
        return messages.HeadRefusedError(detail)

    # Receiving

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discarded_bytes += len(data)
            if self._lingers and self._discarded_bytes > LINGER_BYTES:
                self.transport.close()
            return
        self._idle_since = 0.0
        self._read_bytes = self._own_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self._read_without_upgrade(memoryview(data)[found.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_unparsed(error)
        if self._arriving:
            self._await_rest()
        load = self._load
        load.unmeasured += self._read_bytes
        if load.unmeasured > MEASURE_EVERY_BYTES:
            load.measure()

    def _read_without_upgrade(self, rest: memoryview) -> None:
        """Read on behind a head with an `Upgrade`, after that head once more without it.

        The parser takes no body where it saw an `Upgrade`, and what follows for another protocol.
        """
        while True:
            head = messages.without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as found:
                rest = rest[found.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse_unparsed(error)
                return
            else:
                return

    def _await_rest(self) -> None:
        if self._refused or self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if not self._in_head and cycle.body:
            cycle.message_event.set()
        self._arrived_bytes += self._own_bytes
        self._earlier_reads += self._read_bytes
        if self._after_chunk_head is not None:
            self._after_chunk_head += self._own_bytes
        head_bytes = self._arrived_bytes if self._in_head else self._after_chunk_head or 0
        if head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADER_LINES:
            self._refuse(problem("header_too_large", messages.TOO_LARGE))
            return
        if self._begun:
            return
        self._begun = self._since = self.loop.time()
        self._bytes_before = 0
        if self._timer is not None:  # which may be meant for an idle connection
            self._timer.cancel()
        self._timer = self.loop.call_later(self.receive_seconds, self._check_time)

    def _check_time(self) -> None:
        """Cut off a request that takes too long to arrive, and a connection on which none was begun for long."""
        self._timer = None
        if self._idle_since:
            self._close_if_idle(self._idle_since + self.timeout_keep_alive)
            return
        cycle: Any = self.cycle
        if self.transport.is_closing() or not (self._arriving or cycle is None):
            return
        now = self.loop.time()
        if self.flow.read_paused or (self._in_head and cycle is not None and not cycle.response_complete):
            self._begun = self._since = now  # it is the service that takes its time, or answers an earlier request
        last = self._begun + max(self.whole_request_seconds, self._load.largest_body_seconds)
        if now >= min(last, self._since + self.receive_seconds):
            if now >= last or is_too_slow(self._arrived_bytes - self._bytes_before, self.receive_seconds):
                self._cut_off()
                return
            self._since, self._bytes_before = now, self._arrived_bytes
        self._timer = self.loop.call_at(min(last, self._since + self.receive_seconds), self._check_time)

    def _rest(self) -> None:
        self._idle_since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.timeout_keep_alive, self._check_time)

    def _close_if_idle(self, last: float) -> None:
        """Close a connection that stays idle until then. Its timer goes on while it is used, and is not set anew."""
        if self.loop.time() >= last:
            self.transport.close()
        else:
            self._timer = self.loop.call_at(last, self._check_time)

    def _cut_off(self) -> None:
        if self._arriving and (self._in_head or not self.cycle.response_started):
            self._refuse(problem("request_timeout", messages.TOO_SLOW))
        else:
            self.transport.close()

    # Refusing

    def _refuse_unparsed(self, error: httptools.HttpParserError) -> None:
        if not self._refused:
            self._refuse(self._fault or messages.fault_of(error))

    def _refuse(self, details: ProblemDetails[str], *, has_cycle: bool | None = None) -> None:
        """Answer a request with a problem, unless its answer has begun, or an earlier request waits for its own.

        `has_cycle` says that it is the latest request that the application got: by default where it is still arriving.
        """
        cycle: Any = self.cycle
        if has_cycle is None:
            has_cycle = self._arriving and not self._in_head
        request_id = self._log_refusal(details, has_cycle=has_cycle)
        self._refused = True
        if cycle is not None and not cycle.response_complete and (self.pipeline or not has_cycle):
            if has_cycle:
                self.pipeline.popleft()
        elif has_cycle and cycle.response_started:
            self.transport.close()
        else:
            self._raw.write(messages.refusal(details, request_id))
            self._hang_up()
        self._arriving = self._in_head = False
        self.parser = self._nothing
        self.url, self.headers = b"", []

    def _hang_up(self) -> None:
        """Close the connection once the peer had time to read (RFC 9112, 9.6); the application is told at once."""
        messages.disconnect(self.cycle)
        self.cycle, self._lingers = self._nothing, True
        if self._raw.can_write_eof():
            self._raw.write_eof()
        self.flow.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.linger_seconds, self.transport.close)

    def _log_refusal(self, details: ProblemDetails[str], *, has_cycle: bool) -> bytes:
        """Have a refusal logged, once a request, and return the name of its request."""
        cycle: Any = self.cycle
        request_id = http_request_id(dict(self.headers or ()))
        is_at_work = has_cycle and not self.pipeline
        if self._load.app is not None and not (is_at_work and cycle.response_complete):
            method = self.parser.get_method().decode() if has_cycle or self._fault is not None else None
            seconds = self.loop.time() - self._begun if self._begun else 0.0
            scope = cycle.scope if is_at_work else None
            self._load.app.log_refusal(details, request_id, method, seconds, scope)
        return request_id

    # What it holds

    def held_bytes(self) -> int:
        """The bytes it holds of requests that are not complete or wait their turn, itself included."""
        cycle: Any = self.cycle
        held = CONNECTION_BYTES + HEADER_BYTES * len(self.headers or ())
        if self._in_head or (self._arriving and not cycle.response_complete):
            held += self._arrived_bytes
        elif cycle is not None and not cycle.response_complete and not self.pipeline:
            held += len(cycle.body) + min(self._earlier_reads + self._read_bytes, MAX_HEAD_BYTES)
        return held + sum(REQUEST_BYTES + len(waiting.body) for waiting, _ in self.pipeline)

    def held_since(self, now: float) -> float:
        """When it became idle, its message began to arrive, or this first found its latest request at work."""
        if self._idle_since:
            return self._idle_since
        cycle: Any = self.cycle
        if self._arriving or cycle is None:
            return self._begun or now
        if self._found[0] is not cycle:
            self._found = cycle, now
        return self._found[1]

    def give_up(self) -> None:
        """Close the connection, with a 503 where a request waits for an answer that has not begun."""
        cycle: Any = self.cycle
        is_at_work = cycle is not None and not cycle.response_complete
        if self.pipeline or self._refused or (is_at_work and cycle.response_started):
            self._raw.abort()
        elif self._in_head or is_at_work:
            self._refuse(problem("unavailable", messages.BUSY), has_cycle=not self._in_head)
        else:
            self.transport.close()
