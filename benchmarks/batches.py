"""Batches: the service end to end beside COPY of the same rows into the same table, one call at a time."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from statistics import median

import asyncpg
import msgspec

from benchmarks.load import Caller, post
from benchmarks.report import Sample, Samples
from benchmarks.servers import service
from benchmarks.stage import Stage, Tally, Way
from benchmarks.usages import Workload, batch_body, records
from billing_client.contract.wire import BatchResults

SIZES = (1_000, 10_000)
RECORDS_PER_SECOND = 20_000
COLUMNS = (
    *("customer_id", "request_id", "event_id", "service"),
    *("units_consumed", "price_per_unit", "occurred_at", "recorded_at"),
)
Row = tuple[str, bytes, str | None, str, Decimal, Decimal, datetime, datetime]
_results = msgspec.json.Decoder(BatchResults[str]).decode


@contextmanager
def batches(stage: Stage) -> Iterator[list[Way]]:
    """The service, running for the block, and COPY."""
    ours, theirs = stage.database("batches"), stage.database("copy")
    with service(ours.url, stage.folder) as process:
        yield [
            way
            for size in SIZES
            for way in (
                _way(size, "billing-service", partial(record_batches, stage, ours, process.port, size)),
                _way(size, "COPY", partial(_copy, stage, theirs, size)),
                _way(size, "billing-service, all duplicates", partial(_duplicates, stage, ours, process.port, size)),
            )
        ]


def _way(size: int, system: str, run: "partial[Sample]") -> Way:
    return Way(Samples(f"batches of {size:,}", system, "records/s"), run)


def batches_of(stage: Stage, name: str, size: int, seconds: int) -> list[list[bytes]]:
    """Enough fresh uses for about so many seconds, in batches."""
    workload = Workload(name, stage.customers)
    return [workload.bodies(size) for _ in range(max(1, seconds * RECORDS_PER_SECOND // size))]


def record_batches(stage: Stage, tally: Tally, port: int, size: int, name: str, seconds: int) -> Sample:
    """Record fresh batches for about some seconds."""
    requests = [_request(bodies) for bodies in batches_of(stage, f"{name}-{size}", size, seconds)]
    sample = asyncio.run(_call(port, requests, size, "recorded"))
    tally.add(len(requests) * size)
    return sample


def _duplicates(stage: Stage, _: Tally, port: int, size: int, name: str, seconds: int) -> Sample:
    """The batches that `record_batches` recorded in the same round, once more."""
    requests = [_request(bodies) for bodies in batches_of(stage, f"{name}-{size}", size, seconds)]
    return asyncio.run(_call(port, requests, size, "duplicate"))


def _request(bodies: list[bytes]) -> bytes:
    return post("/usage/batch", batch_body(bodies))


async def _call(port: int, requests: Sequence[bytes], size: int, outcome: str) -> Sample:
    answers, taken = [], []
    async with Caller(port) as call:
        for request in requests:
            started = time.perf_counter()
            answers.append(await call(request))
            taken.append(time.perf_counter() - started)
    for status, body in answers:
        check_answer(status, body, size, outcome)
    return Sample(len(requests) * size / sum(taken), median(taken) * 1e3)


def check_answer(status: int, body: bytes, size: int, outcome: str) -> None:
    """Raise RuntimeError unless every record of a batch had this outcome."""
    if status != 200:
        raise RuntimeError(f"a batch was answered with {status}: {body[:500]!r}")
    outcomes = [result.outcome for result in _results(body).results]
    if outcomes != [outcome] * size:
        raise RuntimeError(f"a batch of {size} had the outcomes {set(outcomes)}, not {outcome}")


def _copy(stage: Stage, tally: Tally, size: int, name: str, seconds: int) -> Sample:
    groups = [rows(bodies) for bodies in batches_of(stage, f"{name}-{size}", size, seconds)]
    sample = asyncio.run(_copy_groups(tally.url, groups))
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


async def _copy_groups(url: str, groups: Sequence[Sequence[Row]]) -> Sample:
    connection = await asyncpg.connect(url)
    taken = []
    try:
        for group in groups:
            started = time.perf_counter()
            await connection.copy_records_to_table("usage_records", records=group, columns=COLUMNS)
            taken.append(time.perf_counter() - started)
    finally:
        await connection.close()
    return Sample(sum(map(len, groups)) / sum(taken), median(taken) * 1e3)
