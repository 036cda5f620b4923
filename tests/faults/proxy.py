"""A TCP proxy that breaks connections on command: between client and service, or service and PostgreSQL."""

import asyncio
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import Literal, NamedTuple, Self

CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, no seconds
Address = tuple[str, int] | str  # host and port, or the path of a Unix socket
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Break(NamedTuple):
    """What befalls the next chunk that goes one way.

    `reset` and `close` let `after` bytes of it through and end the connection, by RST or by FIN; `silence` lets as many
    through and then nothing, either way, while the connection stays open; `delay` holds the chunk back for `seconds`.
    """

    kind: Literal["reset", "close", "silence", "delay"]
    after: int = 0
    seconds: float = 0.0


class _EndedError(Exception):
    """A break that ended its connection."""


class _Link:
    """One connection through the proxy: the caller's side, and the target's once it is there."""

    def __init__(self, caller: asyncio.StreamWriter) -> None:
        self.task = asyncio.current_task()
        self.writers = [caller]
        self.silent = False

    def reset(self) -> None:
        for writer in self.writers:
            with suppress(OSError):
                sock: socket.socket = writer.get_extra_info("socket")
                if sock.family in (socket.AF_INET, socket.AF_INET6):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own and connects each caller to one of `targets`, in turn, the next where one refuses.

    `requests` and `answers` hold what befalls the chunks that come next that way, one each. While `refusing` is set
    each new connection is reset at once; while it is frozen no byte is moved.
    """

    def __init__(self, *targets: Address) -> None:
        self.targets = list(targets)
        self.requests: deque[Break] = deque()
        self.answers: deque[Break] = deque()
        self.refusing = False
        self._turn = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=CHUNK_BYTES, backlog=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = [link.task for link in self._links if link.task]
        self.reset_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._links)

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def reset_all(self) -> None:
        """Reset every connection."""
        for link in list(self._links):
            link.reset()
            if link.task:
                link.task.cancel()

    def silence_all(self) -> None:
        """Move nothing any more on the connections there are, and leave them open: a network that forgot them."""
        for link in self._links:
            link.silent = True

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            if self.refusing:
                raise ConnectionRefusedError
            target = await self._connect()
            link.writers.append(target[1])
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, target[1], self.requests))
                pumps.create_task(self._pump(link, target[0], writer, self.answers))
        except* OSError:
            link.reset()
        except* (_EndedError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            for each in link.writers:
                each.close()

    async def _connect(self) -> Streams:
        """A connection to one of the targets. Raises OSError where none takes it."""
        for _ in self.targets:
            self._turn += 1
            target = self.targets[self._turn % len(self.targets)]
            with suppress(OSError):
                if isinstance(target, str):
                    return await asyncio.open_unix_connection(target, limit=CHUNK_BYTES)
                return await asyncio.open_connection(*target, limit=CHUNK_BYTES)
        raise ConnectionRefusedError

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, breaks: deque[Break]
    ) -> None:
        """Move bytes one way until they end. Raises _EndedError where a break ended the connection."""
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            await self._flowing.wait()
            if link.silent:
                await _forever()
            if not chunk:
                break
            fault = breaks.popleft() if breaks else Break("delay")
            await asyncio.sleep(fault.seconds)
            writer.write(chunk if fault.kind == "delay" else chunk[: fault.after])
            await writer.drain()
            await self._end(link, fault)
        if writer.can_write_eof():
            writer.write_eof()

    async def _end(self, link: _Link, fault: Break) -> None:
        match fault.kind:
            case "reset":
                link.reset()
                raise _EndedError
            case "close":
                raise _EndedError
            case "silence":
                link.silent = True
                await _forever()


async def _forever() -> None:
    await asyncio.Event().wait()
