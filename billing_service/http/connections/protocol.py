"""HTTP as uvicorn speaks it, with a bound on the head of a request and every refusal in the one shape of problems."""

import asyncio
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from billing_client.contract.wire import ProblemDetails
from billing_service.http.errors import PROBLEM_TYPE, SAFE_HEADERS, problem

MAX_HEAD_BYTES = 64 * 1024
RECEIVE_SECONDS = 20.0
BYTES_PER_SECOND = 8 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class JoinedWrites:
    """A connection on which the head of an answer waits for what follows it, so that both go out in one write.

    uvicorn writes them apart, and every write wakes the caller: 79 to 66 µs a request.
    """

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


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses what never becomes a request: 400 for what is no HTTP, 431 (RFC 6585) for a head without end, 408 for
    one that does not arrive.

    A request has RECEIVE_SECONDS to arrive, and a second more for each BYTES_PER_SECOND that came (the rule of Apache's
    mod_reqtimeout). One that arrives at once sets no timer.
    """

    receive_seconds = RECEIVE_SECONDS
    _in_head = False
    _arriving = False
    _refused = False  # what came last: it is not answered, since what came before it still is
    _arrived_bytes = 0
    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._joined = JoinedWrites(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))  # it has all that uvicorn uses of one
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.receive_seconds, self._check_arrival)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._joined.flush()
        if self._refused and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    def on_message_begin(self) -> None:
        self._in_head = self._arriving = True
        self._arrived_bytes, self._since = 0, 0.0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._refused:  # but read, since a connection closed on unread data loses the answer (RFC 9112, 9.6)
            return
        super().data_received(data)
        if self._arriving and not self.transport.is_closing():
            self._arrived_bytes += len(data)
            if self._in_head and self._arrived_bytes > MAX_HEAD_BYTES:
                detail = f"A request's line and headers may have {MAX_HEAD_BYTES} bytes at most."
                self._refuse(problem("header_too_large", detail))
            self._since = self._since or self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_later(self.receive_seconds, self._check_arrival)

    def _check_arrival(self) -> None:
        """Cut off a request that takes too long to arrive, and a connection on which none was begun."""
        self._timer = None
        cycle: Any = self.cycle  # None before the first request
        if self.transport.is_closing() or not (self._arriving or cycle is None):
            return
        now = self.loop.time()
        if self.flow.read_paused or (self._in_head and cycle is not None and not cycle.response_complete):
            self._since = now  # it is the service that takes its time, or answers an earlier request
        end = self._since + self.receive_seconds + self._arrived_bytes / BYTES_PER_SECOND
        if now < end:
            self._timer = self.loop.call_at(end, self._check_arrival)
        elif self._arriving and (self._in_head or not cycle.response_started):
            detail = f"A request has {self.receive_seconds:g} seconds to arrive, and more where it is large."
            self._refuse(problem("request_timeout", detail))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(problem("validation_error", msg))

    def _refuse(self, details: ProblemDetails[str]) -> None:
        cycle: Any = self.cycle  # of the latest request whose head has come
        is_its_own = self._arriving and not self._in_head
        if cycle is not None and not cycle.response_complete and (self.pipeline or not is_its_own):
            if is_its_own:
                self.pipeline.popleft()
            self._refused = True
            return
        if is_its_own and cycle.response_started:
            self.transport.close()
            return
        body = msgspec.json.encode(details)
        headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": len(body), "Connection": "close", **SAFE_HEADERS}
        lines = [f"HTTP/1.1 {details.status} {details.title}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
