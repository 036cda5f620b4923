"""`python -m benchmarks.fairness`: how long a small write takes alone, and beside large work of other callers."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import aiohttp
import uvloop
from msgspec import Struct

from benchmarks.load import Caller, post
from benchmarks.report import circumstances
from benchmarks.servers import create_database, postgresql, query, service, temporary_folder
from benchmarks.usages import batch_body

BATCH = 10_000
STORED = 10  # batches, over a year
PAUSE = 0.005  # seconds between two small writes
HEAD_START = 1.5  # seconds that the large work runs before small writes are timed beside it
YEAR = datetime.now(UTC).year - 1
STATEMENT = f"/customers/large/statement?month={YEAR}-03"


class Work(Struct, frozen=True):
    """Large work: what is called again and again, by a process of its own. `body` makes the body of a POST."""

    path: str
    body: Callable[[int], bytes] | None = None


def usages(name: str, first: int, service: str | None = None) -> bytes:
    """A batch of usage of a year, with 20,000 different prices."""
    return batch_body(
        [
            json.dumps(
                {
                    "customerId": "large",
                    "service": service or f"service-{n % 50}",
                    "unitsConsumed": "1.5",
                    "pricePerUnit": f"{(n % 20_000 + 1) / 1000}",
                    "eventId": f"{name}-{n}",
                    "occurredAt": f"{YEAR}-{n % 12 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:00Z",
                }
            ).encode()
            for n in range(first, first + BATCH)
        ]
    )


WORKS = {
    "batches, new": Work("/usage/batch", lambda call: usages("new", call * BATCH)),
    "batches, duplicates": Work("/usage/batch", lambda call: usages("stored", call % STORED * BATCH)),
    "batches, conflicts": Work("/usage/batch", lambda call: usages("stored", call % STORED * BATCH, "other")),
    "export": Work("/usage/export"),
    "summary by hour and service of a year": Work(
        f"/customers/large/summary?groupBy=hour,service&from={YEAR}-01-01T00:00:00Z&timezone=Asia/Kabul"
    ),
    "statement, JSON": Work(STATEMENT),
    "statement, HTML": Work(f"{STATEMENT}&format=html"),
    "statement, CSV": Work(f"{STATEMENT}&format=csv"),
    "console, a customer's year": Work(f"/console/customers/large?from={YEAR}-01-01&to={YEAR}-12-31"),
    "console, overview": Work("/console"),
}


class Times(Struct):
    """How long small writes took, in milliseconds."""

    taken: list[float]

    def percentile(self, part: float) -> float:
        return sorted(self.taken)[int(len(self.taken) * part)]


def main() -> None:
    options = _options()
    if options.work:
        uvloop.run(_work(options.port, WORKS[options.work], options.seconds))
        return
    with temporary_folder() as folder, postgresql(folder) as server_url:
        url = create_database(server_url, "benchmark_fairness", 0)
        with service(url, folder) as process:
            uvloop.run(_fill(process.port))
            query(url, "VACUUM ANALYZE")
            print(uvloop.run(_measure(process.port, options.seconds, options.only)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="of each measure; default 6")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="NAME", help=", ".join(WORKS))
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


async def _fill(port: int) -> None:
    async with Caller(port) as call:
        for name in ("large", "small"):
            await call(post("/customers", json.dumps({"id": name, "name": name}).encode()))
        for number in range(STORED):
            status, body = await call(post("/usage/batch", usages("stored", number * BATCH)))
            if status != 200:
                raise RuntimeError(f"a batch was answered with {status}: {body[:500]!r}")


async def _measure(port: int, seconds: float, names: list[str]) -> str:
    lines = [
        "| beside | writes | p50 ms | p99 ms | longest ms | p99, of alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    numbers = count()
    async with Caller(port) as call:
        await _small_writes(call, numbers, 1)
        alone = await _small_writes(call, numbers, seconds)
        lines.append(_line("nothing", alone, alone))
        for name in names:
            command = [sys.executable, "-m", "benchmarks.fairness", "--work", name]
            command += ["--port", str(port), "--seconds", str(seconds + 2 * HEAD_START)]
            worker = await asyncio.create_subprocess_exec(*command)
            await asyncio.sleep(HEAD_START)
            lines.append(_line(name, await _small_writes(call, numbers, seconds), alone))
            if await worker.wait():
                raise RuntimeError(f"{name}: the calls failed")
        lines.append(_line("nothing, at the end", await _small_writes(call, numbers, seconds), alone))
    facts = {"each": f"{seconds:g} s of small writes, one after the other with pauses of {PAUSE * 1e3:g} ms"}
    return "\n\n".join([circumstances(facts), "\n".join(lines)])


def _line(name: str, times: Times, alone: Times) -> str:
    p50, p99 = times.percentile(0.5), times.percentile(0.99)
    ratio = "" if times is alone else f"**{p99 / alone.percentile(0.99):.1f}**"
    return f"| {name} | {len(times.taken)} | {p50:.1f} | {p99:.1f} | {max(times.taken):.1f} | {ratio} |"


async def _small_writes(call: Caller, numbers: "count[int]", seconds: float) -> Times:
    times, end = Times([]), time.perf_counter() + seconds
    while time.perf_counter() < end:
        use = {"customerId": "small", "service": "one", "unitsConsumed": "1", "pricePerUnit": "1"}
        request = post("/usage", json.dumps(use | {"eventId": f"small-{next(numbers)}"}).encode())
        sent = time.perf_counter()
        status, body = await call(request)
        times.taken.append((time.perf_counter() - sent) * 1e3)
        if status != 201:
            raise RuntimeError(f"a small write was answered with {status}: {body[:500]!r}")
        await asyncio.sleep(PAUSE)
    return times


async def _work(port: int, work: Work, seconds: float) -> None:
    """Call again and again, and read each answer as fast as it comes."""
    end = time.perf_counter() + seconds
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for number in count():
            if time.perf_counter() > end:
                return
            body = None if work.body is None else work.body(number)
            method = "GET" if body is None else "POST"
            async with http.request(method, work.path, data=body, headers=headers) as response:
                response.raise_for_status()
                async for _ in response.content.iter_any():
                    pass


if __name__ == "__main__":
    main()
