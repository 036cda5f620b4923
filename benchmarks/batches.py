"""Batches: the service end to end beside COPY of the same rows into the same table, one call at a time, and four."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from statistics import median
from typing import TypeVar

import asyncpg
import msgspec

from benchmarks.load import Caller, post
from benchmarks.report import Sample, Samples
from benchmarks.servers import service
from benchmarks.stage import Stage, Tally, Way
from benchmarks.usages import Workload, batch_body, records
from billing_client.contract.wire import BatchResults

LOADS = ((1_000, 1), (1_000, 4), (10_000, 1))  # records of a batch, and how many at a time
RECORDS_PER_SECOND = 20_000
COLUMNS = (
    *("customer_id", "request_id", "event_id", "service"),
    *("units_consumed", "price_per_unit", "occurred_at", "recorded_at"),
)
Row = tuple[str, bytes, str | None, str, Decimal, Decimal, datetime, datetime]
T = TypeVar("T")
_results = msgspec.json.Decoder(BatchResults[str]).decode


@contextmanager
def batches(stage: Stage) -> Iterator[list[Way]]:
    """The service, running for the block, and COPY."""
    ours, theirs = stage.database("batches"), stage.database("copy")
    with service(ours.url, stage.folder) as process:
        yield [
            way
            for load in LOADS
            for way in (
                _way(load, "billing-service", partial(record_batches, stage, ours, process.port, *load)),
                _way(load, "COPY", partial(_copy, stage, theirs, *load)),
                _way(load, "billing-service, all duplicates", partial(_duplicates, stage, ours, process.port, *load)),
            )
        ]


def _way(load: tuple[int, int], system: str, run: "partial[Sample]") -> Way:
    size, at_once = load
    measure = f"batches of {size:,}" if at_once == 1 else f"batches of {size:,}, {at_once} at a time"
    return Way(Samples(measure, system, "records/s"), run)


def batches_of(stage: Stage, name: str, size: int, seconds: int) -> list[list[bytes]]:
    """Enough fresh uses for about so many seconds, in batches."""
    workload = Workload(name, stage.customers)
    return [workload.bodies(size) for _ in range(max(1, seconds * RECORDS_PER_SECOND // size))]


def record_batches(stage: Stage, tally: Tally, port: int, size: int, at_once: int, name: str, seconds: int) -> Sample:
    """Record fresh batches for about some seconds."""
    requests = [_request(bodies) for bodies in batches_of(stage, f"{name}-{size}-{at_once}", size, seconds)]
    sample = asyncio.run(_call(port, requests, (size, at_once), "recorded"))
    tally.add(len(requests) * size)
    return sample


def _duplicates(stage: Stage, _: Tally, port: int, size: int, at_once: int, name: str, seconds: int) -> Sample:
    """The batches that `record_batches` recorded in the same round, once more."""
    requests = [_request(bodies) for bodies in batches_of(stage, f"{name}-{size}-{at_once}", size, seconds)]
    return asyncio.run(_call(port, requests, (size, at_once), "duplicate"))


def _request(bodies: list[bytes]) -> bytes:
    return post("/usage/batch", batch_body(bodies))


async def _call(port: int, requests: Sequence[bytes], load: tuple[int, int], outcome: str) -> Sample:
    size, at_once = load
    answers: list[tuple[int, bytes]] = []
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(port)) for _ in range(at_once)]

        async def call(caller: Caller, request: bytes) -> None:
            answers.append(await caller(request))

        sample = await _timed([partial(call, caller) for caller in callers], requests, size)
    for status, body in answers:
        check_answer(status, body, size, outcome)
    return sample


async def _timed(calls: Sequence[Callable[[T], Awaitable[object]]], batches: Sequence[T], size: int) -> Sample:
    """Time batches that are shared out among some callers, each with one under way at a time."""
    left, taken = list(reversed(batches)), []

    async def work(call: Callable[[T], Awaitable[object]]) -> None:
        while left:
            began = time.perf_counter()
            await call(left.pop())
            taken.append(time.perf_counter() - began)

    started = time.perf_counter()
    await asyncio.gather(*map(work, calls))
    return Sample(len(batches) * size / (time.perf_counter() - started), median(taken) * 1e3)


def check_answer(status: int, body: bytes, size: int, outcome: str) -> None:
    """Raise RuntimeError unless every record of a batch had this outcome."""
    if status != 200:
        raise RuntimeError(f"a batch was answered with {status}: {body[:500]!r}")
    outcomes = [result.outcome for result in _results(body).results]
    if outcomes != [outcome] * size:
        raise RuntimeError(f"a batch of {size} had the outcomes {set(outcomes)}, not {outcome}")


def _copy(stage: Stage, tally: Tally, size: int, at_once: int, name: str, seconds: int) -> Sample:
    groups = [rows(bodies) for bodies in batches_of(stage, f"{name}-{size}-{at_once}", size, seconds)]
    sample = asyncio.run(_copy_groups(tally.url, groups, size, at_once))
    tally.add(len(groups) * size)
    return sample


def rows(bodies: Sequence[bytes]) -> list[Row]:
    """The rows that the service would store for these uses."""
    return [
        (
            record.customer_id,
            bytes.fromhex(record.request_id),
            record.event_id,
            record.service,
            Decimal(record.units_consumed),
            Decimal(record.price_per_unit),
            record.occurred_at,
            record.recorded_at,
        )
        for record in records(bodies)
    ]


async def _copy_groups(url: str, groups: Sequence[Sequence[Row]], size: int, at_once: int) -> Sample:
    connections = [await asyncpg.connect(url) for _ in range(at_once)]

    async def copy(connection: "asyncpg.Connection[asyncpg.Record]", group: Sequence[Row]) -> None:
        await connection.copy_records_to_table("usage_records", records=group, columns=COLUMNS)

    try:
        return await _timed([partial(copy, connection) for connection in connections], groups, size)
    finally:
        for connection in connections:
            await connection.close()
