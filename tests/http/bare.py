"""An application that says what reached it, served by the service's protocol: in a thread, or as a process.

As a process (`python -m tests.http.bare PORT`) it shows what connections alone cost in memory.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import parse_headers
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs

import uvicorn
from multidict import CIMultiDict
from starlette.types import Receive, Scope, Send

from billing_client.contract.wire import ProblemDetails
from billing_service.commands.serve import KEEP_ALIVE_SECONDS
from billing_service.http.connections.protocol import BoundedHttpProtocol
from tests.calls import Answer
from tests.services import Service

MEGABYTE = 1024 * 1024


class Bounds(NamedTuple):
    """The settings that a connection reads."""

    max_body_bytes: int = 8 * MEGABYTE
    max_receiving_bytes: int = 64 * MEGABYTE
    max_sending_bytes: int = 64 * MEGABYTE


class Refusal(NamedTuple):
    status: int
    code: str
    http_request_id: str
    method: str | None
    seconds: float


class BareApp:
    """Answers with what it got; at `/bytes?n=` with so many bytes in one piece, at `/unread` without reading the body.

    Attributes:
        refusals: What the protocol refused, in order.
        heads: The method and the path of each request, in order.
    """

    def __init__(self, settings: Bounds | None = None) -> None:
        self.settings = settings or Bounds()
        self.refusals: list[Refusal] = []
        self.heads: list[tuple[str, str]] = []

    def log_refusal(
        self,
        details: ProblemDetails[str],
        http_request_id: bytes,
        method: str | None,
        seconds: float,
        scope: Scope | None,
    ) -> None:
        self.refusals.append(Refusal(details.status, details.code, http_request_id.decode(), method, seconds))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.heads.append((scope["method"], scope["path"]))
        if scope["path"] == "/bytes":
            answer = b"x" * int(parse_qs(scope["query_string"])[b"n"][0])
        elif scope["path"] == "/slow":
            await asyncio.sleep(3)
            answer = b"{}"
        elif scope["path"] == "/unread":
            answer = b"{}"
        else:
            body = await _read(receive)
            if body is None:
                return
            answer = json.dumps(_seen(scope, body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


def _seen(scope: Scope, body: bytes) -> dict[str, Any]:
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return {"method": scope["method"], "path": scope["path"], "headers": headers, "body": body.decode("latin-1")}


class Served(NamedTuple):
    host: str
    port: int
    app: BareApp


@contextmanager
def serving(app: BareApp, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol) -> Iterator[Served]:
    """Serve on a free port for the block, from a thread with a loop of its own."""
    server = _server(app, protocol)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        host, port = listener.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=f"bare app on {port}")
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Served(host, port, app)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def connect(served: Served | Service) -> socket.socket:
    return socket.create_connection((served.host, served.port), timeout=30)


def read_answers(connection: socket.socket, count: int) -> list[Answer]:
    """Read so many JSON answers that may come in one go."""
    with connection.makefile("rb") as file:
        return [_read_answer(file) for _ in range(count)]


def _read_answer(file: BinaryIO) -> Answer:
    status = file.readline().split()[1]
    headers = CIMultiDict(parse_headers(file).items())
    return Answer(int(status), headers, json.loads(file.read(int(headers["Content-Length"]))))


def _server(app: BareApp, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    return uvicorn.Server(config)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048) as listening:
        _server(BareApp()).run(sockets=[listening])
