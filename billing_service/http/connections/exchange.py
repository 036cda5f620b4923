"""One request and its answer on a connection: uvicorn's, with a short way for what most of them are."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EXTENSION = "billing_service.exchange"  # where in the scope of a request its Exchange stands
CLOSE = (b"connection", b"close")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_log = logging.getLogger("uvicorn.error")


def asgi_scope(connection: HttpToolsProtocol, version: str) -> dict[str, Any]:
    """The request whose head a connection has parsed, as ASGI has it. `version` is that of HTTP."""
    raw_path, _, query = connection.url.partition(b"#")[0].partition(b"?")
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "method": connection.parser.get_method().decode("ascii"),
        "scheme": connection.scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": connection.headers,
        "server": connection.server,
        "client": connection.client,
        "state": connection.app_state.copy(),
    }


class Exchange(RequestResponseCycle):
    """A request and its answer.

    An application may take a body that has arrived as a whole, and give an answer that is whole, by a plain call each:
    most requests need no more, and it saves four messages. For everything else there are `receive` and `send` of ASGI.
    """

    __slots__ = (
        "body",
        "chunked_encoding",
        "default_headers",
        "disconnected",
        "expected_content_length",
        "flow",
        "keep_alive",
        "message_event",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "transport",
        "waiting_for_100_continue",
    )
    access_log = False
    logger = access_logger = _log

    def __init__(  # in place of uvicorn's own
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        on_response: Callable[[], None],
        *,
        expect_100_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.scope: Any = scope
        self.transport = transport
        self.flow = flow
        self.default_headers = default_headers
        self.on_response = on_response
        self.waiting_for_100_continue = expect_100_continue
        self.keep_alive = keep_alive
        self.message_event = asyncio.Event()
        self.body: Any = b""  # bytes while it is one piece, then a bytearray
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0
        scope[EXTENSION] = self

    def add(self, body: bytes) -> None:
        """Add a piece of the body that arrived."""
        if not self.body:
            self.body = body
            return
        if type(self.body) is bytes:
            self.body = bytearray(self.body)
        self.body += body

    def take_body(self, limit: int) -> bytes | None:
        """The body, if all of it has arrived, and has at most `limit` bytes; otherwise it is to be received."""
        if self.more_body or self.disconnected or self.response_started or len(self.body) > limit:
            return None
        body, self.body = bytes(self.body), b""
        self.message_event.clear()
        return body

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes | memoryview) -> bool:
        """Send a whole answer in one write. False if it cannot be sent so: then it is to be sent by `send`.

        Args:
            status: The HTTP status.
            headers: The header lines, names in lower case; among them the Content-Length, which is not checked. The
                connection is closed after the answer if CLOSE is one of them.
            body: The body; it is left out of the answer to a HEAD.

        Raises:
            RuntimeError: A header holds a line end.
        """
        if self.disconnected or self.response_started or self.flow.write_paused:
            return False
        if CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, CLOSE]
        lines = [b": ".join(line) for line in (*self.default_headers, *headers)]
        head = STATUS_LINE[status] + b"\r\n".join([*lines, b"", b""])
        if head.count(b"\r") != len(lines) + 2 or head.count(b"\n") != len(lines) + 2:
            raise RuntimeError("A header of the response holds a line end.")
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.writelines((head, b"" if self.scope["method"] == "HEAD" else body))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
