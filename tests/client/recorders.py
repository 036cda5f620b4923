"""What the tests of the recorder share: a hook that remembers, and steps of a server between it and the service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import aiohttp
from msgspec.structs import replace

from billing_client import AttemptEvent, BillingSystemClient, RecorderEvent, Spool, SpoolStatus, Usage, UsageRecorder
from tests.client.answers import problem_body, stored
from tests.client.misbehaving import Connection, Request, Step, answer
from tests.services import free_port

E = TypeVar("E", bound=RecorderEvent)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Hook:
    """An `on_event` that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[RecorderEvent] = []

    def __call__(self, event: RecorderEvent) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        """What became of the records, in order."""
        return [event.kind for event in self.events if not isinstance(event, AttemptEvent)]


@asynccontextmanager
async def away() -> AsyncIterator[BillingSystemClient]:
    """A client of a service that is not there."""
    async with BillingSystemClient(base_url=f"http://127.0.0.1:{free_port()}", timeout=0.2) as client:
        yield client


async def kept(spool: Path, *usages: Usage, **options: Any) -> None:
    """Record usage at once while the service is away, so that it stays in the spool."""
    async with away() as client, client.recorder(spool=spool, close_timeout=0, **options) as recorder:
        await asyncio.gather(*(recorder.record(usage) for usage in usages))


def status_of(spool: Path) -> SpoolStatus:
    """What a spool holds, whoever uses it."""
    with Spool(spool, read_only=True) as found:
        return found.status()


def records_of(request: Request) -> list[dict[str, Any]]:
    """The records of a batch."""
    records: list[dict[str, Any]] = json.loads(request.body)["records"]
    return records


def each(result: Callable[[dict[str, Any]], dict[str, Any]]) -> Step:
    """The answer to a batch, with a result for each record."""

    async def step(connection: Connection, request: Request) -> None:
        results = [result(record) for record in records_of(request)]
        await answer(200, json.dumps({"results": results}).encode())(connection, request)

    return step


def duplicate(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The result of a record that is stored already, but for these members."""

    def result(record: dict[str, Any]) -> dict[str, Any]:
        existing = stored(record) | changes
        return {"outcome": "duplicate", "problem": problem_body(409, "duplicate_record", existing=existing)}

    return result


def passing_on(url: str, then: Step | None = None) -> Step:
    """A proxy of the service: answers as it does, or else does `then` once the service has answered."""

    async def step(connection: Connection, request: Request) -> None:
        headers = {name: value for name, value in request.headers if name in ("Content-Type", "Idempotency-Key")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url + request.target, data=request.body, headers=headers) as response,
        ):
            body = await response.read()
        await (then or answer(response.status, body))(connection, request)

    return step


async def in_spool_thread(recorder: UsageRecorder, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Call a function in the one thread that may use the recorder's file."""
    return await asyncio.get_running_loop().run_in_executor(recorder._outbox.executor, function, *arguments)


async def settle(recorder: UsageRecorder) -> None:
    """Wait until all that was recorded is settled; fails where it is not in a long time."""
    counts = await recorder.flush(60)
    assert counts.pending == 0, counts


def hurried(recorder: UsageRecorder) -> UsageRecorder:
    """The same recorder, not opened yet, with short waits before it looks or tries again."""
    options = replace(recorder._options, look_seconds=0.05, rewrite_seconds=0.01, first_deferral=0.05)
    return UsageRecorder(recorder._transport, options)
