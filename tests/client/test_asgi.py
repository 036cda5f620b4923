"""The middleware around real applications of Starlette and FastAPI, under uvicorn, with clients that hang up."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from billing_client import BillingSystemClient, Usage, UsageRecord, UsageRecorder
from billing_client.asgi import MeteredRequest, MeteredResponse, UsageMiddleware, meter
from tests.services import Service

CHUNK, CHUNKS = b"x" * 1_000, 2_000
HANG_UPS = 10


class Metered(NamedTuple):
    """An application that runs, and what it recorded."""

    port: int
    recorder: UsageRecorder
    loop: asyncio.AbstractEventLoop
    seen: list[tuple[MeteredRequest, MeteredResponse]]

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def hang_up(self, path: str, after: int) -> int:
        """Read so many bytes of an answer, and hang up; how many bytes of its body came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
            came = b""
            while came.count(b"x") < after:
                came += connection.recv(4_096)
            return came.count(b"x")

    def deliver(self, least: int) -> None:
        """Wait until so many uses were taken, and all are delivered."""
        deadline = time.monotonic() + 60
        while self.recorder.counts.recorded < least and time.monotonic() < deadline:
            time.sleep(0.01)
        asyncio.run_coroutine_threadsafe(self.recorder.flush(60), self.loop).result()


def routes(customer: str) -> dict[str, Callable[[Request], Any]]:
    """The handlers of both applications, by path."""

    async def plain(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse({"id": request.scope["billing.request_id"]})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield CHUNK
            await asyncio.sleep(0.002)

    async def stream(_: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    async def counted(request: Request) -> StreamingResponse:
        async def tokens() -> AsyncIterator[bytes]:
            recorder = request.app.state.recorder
            async with meter(recorder, customer_id=customer, service="tokens", price_per_unit="0.5") as metered:
                async for chunk in chunks():
                    metered.add(1)
                    yield chunk

        return StreamingResponse(tokens())

    async def failing(_: Request) -> None:
        raise LookupError("of the application")

    return {"/plain/{thing}": plain, "/stream": stream, "/counted": counted, "/failing": failing}


def starlette_app(customer: str, lifespan: Any) -> Starlette:
    return Starlette(lifespan=lifespan, routes=[Route(path, endpoint) for path, endpoint in routes(customer).items()])


def fastapi_app(customer: str, lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    for path, endpoint in routes(customer).items():
        app.add_api_route(path, endpoint, response_model=None)
    return app


def used(customer: str, seen: list[tuple[MeteredRequest, MeteredResponse]]) -> Callable[..., Any]:
    """What a request used: a use per request, or a use for each kind of bytes; nothing where a meter counts."""

    def usage(request: MeteredRequest, response: MeteredResponse) -> Usage | list[Usage] | None:
        seen.append((request, response))
        sent = Usage(
            customer_id=customer, service=request.path, units_consumed=response.bytes_sent, price_per_unit="0.001"
        )
        if request.headers.get("x-bill") == "both":
            return [sent, Usage(customer_id=customer, service="requests", units_consumed=1, price_per_unit=1)]
        return None if request.path == "/counted" or request.headers.get("x-bill") == "free" else sent

    return usage


@contextmanager
def served(service: Service, customer: str, make: Callable[[str, Any], Starlette], **options: Any) -> Iterator[Metered]:
    """Serve an application with the middleware, from a thread."""
    seen: list[tuple[MeteredRequest, MeteredResponse]] = []
    opened: list[tuple[UsageRecorder, asyncio.AbstractEventLoop]] = []
    client = BillingSystemClient(base_url=service.url)
    recorder = client.recorder()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client, recorder:
            app.state.recorder = recorder
            opened.append((recorder, asyncio.get_running_loop()))
            yield

    app = make(customer, lifespan)
    app.add_middleware(UsageMiddleware, recorder=recorder, usage=used(customer, seen), **options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=30))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield Metered(listener.getsockname()[1], *opened[0], seen)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(params=[starlette_app, fastapi_app], ids=["starlette", "fastapi"])
def metered(request: pytest.FixtureRequest, shared_service: Service, customer: str) -> Iterator[Metered]:
    with served(shared_service, customer, request.param) as metered:
        yield metered


async def stored(service: Service, customer: str) -> list[UsageRecord]:
    async with BillingSystemClient(base_url=service.url) as client:
        return [record async for record in client.usage(customer_id=customer)]


async def test_each_request_is_a_use_with_its_id(metered: Metered, shared_service: Service, customer: str) -> None:
    answers = [json.loads(metered.get("/plain/a%20b")[1])["id"] for _ in range(3)]
    assert metered.get("/plain/c", **{"X-Bill": "free"})[0] == 200
    metered.deliver(3)
    records = await stored(shared_service, customer)
    assert {record.event_id for record in records} == set(answers)
    assert {record.service for record in records} == {"/plain/a b"}
    request, response = metered.seen[0]
    assert request.scope["path_params"] == {"thing": "a b"}
    assert (request.method, request.headers["host"]) == ("GET", f"127.0.0.1:{metered.port}")
    assert (response.status, response.is_complete) == (200, True)
    assert response.bytes_sent == int(response.headers["content-length"]) == records[0].units_consumed


async def test_several_uses_of_a_request_are_numbered(metered: Metered, shared_service: Service, customer: str) -> None:
    id_ = json.loads(metered.get("/plain/a", **{"X-Bill": "both"})[1])["id"]
    metered.deliver(2)
    records = await stored(shared_service, customer)
    assert {(record.event_id, record.service) for record in records} == {
        (f"{id_}/0", "/plain/a"),
        (f"{id_}/1", "requests"),
    }


async def test_of_an_answer_that_is_cut_off_what_was_sent_is_billed(
    metered: Metered, shared_service: Service, customer: str
) -> None:
    async with asyncio.TaskGroup() as clients:
        reading = [clients.create_task(asyncio.to_thread(metered.hang_up, "/stream", 5_000)) for _ in range(HANG_UPS)]
    metered.deliver(HANG_UPS)
    records = await stored(shared_service, customer)
    assert len(records) == HANG_UPS
    least = min(task.result() for task in reading)
    assert all(least <= record.units_consumed < CHUNKS * len(CHUNK) for record in records)
    assert not any(response.is_complete for _, response in metered.seen)


async def test_what_a_stream_counted_until_it_was_cut_off_is_billed(
    metered: Metered, shared_service: Service, customer: str
) -> None:
    async with asyncio.TaskGroup() as clients:
        for _ in range(HANG_UPS):
            clients.create_task(asyncio.to_thread(metered.hang_up, "/counted", 5_000))
    metered.deliver(HANG_UPS)
    records = await stored(shared_service, customer)
    assert len(records) == HANG_UPS
    assert all(5 <= record.units_consumed < CHUNKS for record in records)
    assert all(record.amount == record.units_consumed * Decimal("0.5") for record in records)


async def test_a_request_that_fails_is_told_as_far_as_it_went(
    metered: Metered, shared_service: Service, customer: str
) -> None:
    assert metered.get("/failing")[0] == 500
    metered.deliver(1)
    ((_, response),) = metered.seen
    assert (response.status, response.bytes_sent, response.is_complete) == (None, 0, False)
    assert len(await stored(shared_service, customer)) == 1


async def test_the_id_of_a_proxy_counts_where_it_is_named(shared_service: Service, customer: str) -> None:
    with served(shared_service, customer, starlette_app, request_id_header="X-Request-ID") as metered:
        for id_ in ("one", "one", "x" * 500, ""):
            metered.get("/plain/a", **{"X-Request-ID": id_})
        metered.deliver(4)
        assert metered.recorder.counts.duplicates + metered.recorder.counts.dead == 1
    records = await stored(shared_service, customer)
    assert len(records) == 3
    assert "one" in {record.event_id for record in records}
