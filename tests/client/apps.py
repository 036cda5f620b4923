"""Web applications that record usage, run by a real uvicorn, and clients that hang up."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from billing_client import BillingSystemClient, Usage, UsageRecorder

PATIENCE_SECONDS = 60


class Tokens:
    """What a streamed answer sends, recorded with each token and at the end; `begun` are the event ids."""

    def __init__(self, customer_id: str, kind: str) -> None:
        self.begun: list[str] = []
        self._streams = count()  # one may begin before the last has recorded
        self._customer_id = customer_id
        self._kind = kind

    async def stream(self, recorder: UsageRecorder) -> AsyncIterator[bytes]:
        number = next(self._streams)
        try:
            yield b"begin "
            while True:
                if self._kind == "waiting":
                    await self._record(recorder, f"{number}/{len(self.begun)}")
                else:
                    await asyncio.sleep(0.005)
                yield b"token "
        finally:
            if self._kind == "finally":
                await self._record(recorder, str(number))

    async def _record(self, recorder: UsageRecorder, name: str) -> None:
        self.begun.append(name)
        await recorder.record(
            Usage(customer_id=self._customer_id, service="tokens", units_consumed=1, price_per_unit=1, event_id=name)
        )


def app_of(framework: str, tokens: Tokens, url: str, spool: Path) -> Any:
    """An application with one address, `/`, that streams tokens until its client hangs up."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[dict[str, UsageRecorder]]:
        async with BillingSystemClient(base_url=url) as client, client.recorder(spool=spool) as recorder:
            yield {"recorder": recorder}

    return _starlette(tokens, lifespan) if framework == "starlette" else _fastapi(tokens, lifespan)


def _starlette(tokens: Tokens, lifespan: Any) -> Starlette:
    async def answer(request: Request) -> StreamingResponse:
        return StreamingResponse(tokens.stream(request.state.recorder))

    return Starlette(routes=[Route("/", answer)], lifespan=lifespan)


def _fastapi(tokens: Tokens, lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def answer(request: Request) -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(tokens.stream(request.state.recorder))

    return app


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve an application on a free port for the block, from a thread with a loop of its own; the port."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the application did not start; its log says why"
                time.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@asynccontextmanager
async def calling(port: int, path: str = "/") -> AsyncIterator[asyncio.StreamReader]:
    """A request of a client that hangs up at the end of the block, whatever it has read by then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield reader
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
