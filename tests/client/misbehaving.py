"""A server on a real socket that misbehaves as its script says: each request is met by the script's next step."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec

PATIENCE_SECONDS = 10


class Request(msgspec.Struct, frozen=True):
    """A request as it came; `connection` counts from 1, `at` is the time of day in seconds."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    at: float

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for other, value in self.headers if other.lower() == name.lower()]

    def header(self, name: str) -> str:
        """The value of a header that stands exactly once."""
        (value,) = self.all(name)
        return value


@dataclass(eq=False)
class Connection:
    """A connection that a client made."""

    server: "MisbehavingServer"
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Step = Callable[[Connection, Request], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    """A well-formed answer; the connection stays open. Names of headers with "_" for "-"."""

    async def step(connection: Connection, _: Request) -> None:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        reason = HTTPStatus(status).phrase
        await connection.send(f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body)

    return step


def raw(data: bytes) -> Step:
    """These bytes, then the end of the connection."""

    async def step(connection: Connection, _: Request) -> None:
        await connection.send(data)
        connection.writer.close()

    return step


async def disconnect(connection: Connection, _: Request) -> None:
    """The end of the connection in the place of an answer."""
    connection.writer.close()


async def reset(connection: Connection, _: Request) -> None:
    """A connection reset in the place of an answer."""
    connection.writer.transport.abort()


async def silent(connection: Connection, _: Request) -> None:
    """No answer, until the client goes away."""
    with suppress(ConnectionError):
        await connection.reader.read()
    connection.writer.close()


def refuse_after(last: Step) -> Step:
    """This step, and from then on no connection is accepted."""

    async def step(connection: Connection, request: Request) -> None:
        connection.server.stop_listening()
        await last(connection, request)
        connection.writer.close()

    return step


@dataclass(eq=False)
class MisbehavingServer:
    """Meets each request, on whatever connection, with the next step; the last step meets all that follow."""

    script: list[Step]
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "MisbehavingServer":
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self.tls, backlog=1_000)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_listening()
        self.drop_connections()
        await self.wait_until_alone()

    def stop_listening(self) -> None:
        """From now on connections are refused."""
        if self._server is not None:
            self._server.close()

    def drop_connections(self) -> None:
        """Reset all connections; a client in this very loop notices only once it gives way to the loop."""
        for connection in self._open:
            connection.writer.transport.abort()

    async def wait_until_alone(self) -> None:
        """Wait until the clients have closed all connections."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def wait_for_requests(self, number: int) -> None:
        """Wait until so many requests have come in whole."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.requests) < number:
                self._arrived.clear()
                await self._arrived.wait()

    def tasks(self) -> set["asyncio.Task[None]"]:
        """The tasks in which the server itself runs."""
        return set(self._tasks)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(self, self.connections, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(connection)
        try:
            while not writer.is_closing():
                request = await _read(reader, connection.number)
                self.requests.append(request)
                self._arrived.set()
                step = self.script[min(len(self.requests), len(self.script)) - 1]
                await step(connection, request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            self._open.discard(connection)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = line.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    body = await reader.readexactly(length)
    return Request(method, target, headers, body, connection, time.time())


def misbehaving(*script: Step, tls: ssl.SSLContext | None = None) -> MisbehavingServer:
    """A server for an `async with` block."""
    return MisbehavingServer(list(script), tls)
