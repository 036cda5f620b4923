"""What the client costs beside the same calls made by hand, against the same service."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from uuid import uuid4

import aiohttp
import msgspec

from benchmarks.batches import batches_of, check_answer
from benchmarks.load import Caller, post
from benchmarks.report import Sample, Samples
from benchmarks.servers import service
from benchmarks.stage import Stage, Tally, Way
from benchmarks.usages import Workload, batch_body
from billing_client import BillingSystemClient, Usage

CALLS_PER_SECOND, TASKS = 1_500, 64
BATCH_SIZE, BATCHES_AT_ONCE = 1_000, 4

Run = Callable[[Stage, int, str, int], Awaitable[tuple[int, float, float]]]


@contextmanager
def clients(stage: Stage) -> Iterator[list[Way]]:
    """The service, running for the block."""
    single, batch = f"client, {TASKS} calls at once", f"client, {BATCHES_AT_ONCE} batches of {BATCH_SIZE:,} at once"
    ways: tuple[tuple[str, str, str, Run], ...] = (
        (single, "record_usage", "/s", _record_usage),
        (single, "bare aiohttp POST", "/s", _bare_posts),
        (batch, "record_usages", "records/s", _record_usages),
        (batch, "requests built beforehand", "records/s", _bare_batches),
    )
    tally = stage.database("clients")
    with service(tally.url, stage.folder) as process:
        yield [
            Way(Samples(measure, system, unit), partial(_run, stage, tally, process.port, run, system))
            for measure, system, unit, run in ways
        ]


def _run(stage: Stage, tally: Tally, port: int, run: Run, system: str, name: str, seconds: int) -> Sample:
    recorded, elapsed, cpu = asyncio.run(_awaited(run(stage, port, f"{name}-{system}", seconds)))
    tally.add(recorded)
    return Sample(recorded / elapsed, cpu_us=cpu / recorded * 1e6)


async def _awaited(result: Awaitable[tuple[int, float, float]]) -> tuple[int, float, float]:
    return await result


class _Clock:
    """Seconds on the wall and of this process's CPU."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


async def _at_once(call: Callable[[bytes], Awaitable[None]], bodies: Sequence[bytes], tasks: int) -> None:
    """Make a call for each body, at most so many at a time."""
    left = iter(bodies)

    async def worker() -> None:
        for body in left:
            await call(body)

    await asyncio.gather(*(worker() for _ in range(tasks)))


async def _record_usage(stage: Stage, port: int, name: str, seconds: int) -> tuple[int, float, float]:
    bodies = Workload(name, stage.customers).bodies(seconds * CALLS_PER_SECOND)
    given = {body: usage_of(body) for body in bodies}
    async with BillingSystemClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def call(body: bytes) -> None:
            usage = given[body]
            await client.record_usage(
                customer_id=usage.customer_id,
                service=usage.service,
                units_consumed=usage.units_consumed,
                price_per_unit=usage.price_per_unit,
                event_id=usage.event_id,
            )

        clock = _Clock()
        await _at_once(call, bodies, TASKS)
        return len(bodies), *clock.read()


async def _bare_posts(stage: Stage, port: int, name: str, seconds: int) -> tuple[int, float, float]:
    bodies = Workload(name, stage.customers).bodies(seconds * CALLS_PER_SECOND)
    url = f"http://127.0.0.1:{port}/usage"
    async with aiohttp.ClientSession() as session:

        async def call(body: bytes) -> None:
            headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
            async with session.post(url, data=body, headers=headers) as response:
                if response.status != 201 or not await response.read():
                    raise RuntimeError(f"a call was answered with {response.status}")

        clock = _Clock()
        await _at_once(call, bodies, TASKS)
        return len(bodies), *clock.read()


async def _record_usages(stage: Stage, port: int, name: str, seconds: int) -> tuple[int, float, float]:
    usages = [usage_of(body) for batch in batches_of(stage, name, BATCH_SIZE, seconds) for body in batch]
    async with BillingSystemClient(base_url=f"http://127.0.0.1:{port}") as client:
        clock = _Clock()
        outcomes = [
            outcome.outcome
            async for outcome in client.record_usages(usages, batch_size=BATCH_SIZE, concurrency=BATCHES_AT_ONCE)
        ]
        read = clock.read()
    if outcomes != ["recorded"] * len(usages):
        raise RuntimeError(f"the batches had the outcomes {set(outcomes)}")
    return len(usages), *read


async def _bare_batches(stage: Stage, port: int, name: str, seconds: int) -> tuple[int, float, float]:
    requests = [
        post("/usage/batch", batch_body(bodies), key=str(uuid4()))  # as every caller that may have to repeat a call
        for bodies in batches_of(stage, name, BATCH_SIZE, seconds)
    ]
    answers = []
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(port)) for _ in range(BATCHES_AT_ONCE)]

        async def call(request: bytes) -> None:
            caller = callers.pop()
            answers.append(await caller(request))
            callers.append(caller)

        clock = _Clock()
        await _at_once(call, requests, BATCHES_AT_ONCE)
        read = clock.read()
    for status, body in answers:
        check_answer(status, body, BATCH_SIZE, "recorded")
    return len(requests) * BATCH_SIZE, *read


_members = msgspec.json.Decoder(dict[str, str]).decode


def usage_of(body: bytes) -> Usage:
    """The use that this JSON reports."""
    members = _members(body)
    return Usage(
        customer_id=members["customerId"],
        service=members["service"],
        units_consumed=members["unitsConsumed"],
        price_per_unit=members["pricePerUnit"],
        event_id=members["eventId"],
    )
