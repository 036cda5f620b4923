"""`python -m benchmarks.statements`: the statement of a month with many records, beside that of one with few."""

import argparse
import asyncio
import json
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

from benchmarks.fill import fill, settle
from benchmarks.load import Caller, choose_generator, get, post
from benchmarks.reads import memory, read
from benchmarks.report import Samples, circumstances, table
from benchmarks.servers import Process, postgresql, query, service, temporary_folder
from benchmarks.stage import Stage, Way, measure
from benchmarks.usages import SERVICES, batch_body

MONTH, SPAN = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=31)
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns")  # all but UTC cut pieces
LATE = 1_000
POLL_SECONDS = 0.1


def main() -> None:
    options = _options()
    with temporary_folder() as folder, postgresql(folder, {}) as url, ExitStack() as stack:
        stage = Stage(url, folder, 0, choose_generator()[1], [], [])
        tally = stage.database("statements", customers=0, counted=False)
        sides = {f"{records:,} records": f"month-{records}" for records in (options.small, options.records)}
        for records, customer in zip((options.small, options.records), sides.values(), strict=True):
            fill(tally.url, customer, records, MONTH, SPAN)
        settle(tally.url)
        process = stack.enter_context(service(tally.url, folder))
        before = memory(process, "VmRSS")
        for side, customer in sides.items():
            print(f"- first reading, {side}: {_first_reading(process, customer)}", flush=True)
        settle(tally.url)
        ways = [
            _way(process, f"statement, {zone}", side, customer, zone)
            for zone in ZONES
            for side, customer in sides.items()
        ]
        measure(ways, options.rounds, options.seconds)
        asyncio.run(_record_late(process, sides[f"{options.records:,} records"]))
        (side, customer) = list(sides.items())[-1]
        late = [_way(process, f"with {LATE:,} late records, which no piece has seen yet", side, customer, "UTC")]
        measure(late, options.rounds, options.seconds)
        print(f"- the service's memory: {before:.1f} MB before, {memory(process, 'VmHWM'):.1f} MB at most")
        facts = {
            "database": f"embedded PostgreSQL {query(url, 'SHOW server_version')}, its own defaults",
            "rounds": f"{options.rounds}, interleaved, of about {options.seconds} s each",
        }
        print(circumstances(facts), table(way.samples for way in ways + late), "", sep="\n\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statements", description=__doc__)
    parser.add_argument("--small", type=int, default=1_000, help="records of the small month; default 1,000")
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the large one; default 1,000,000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2, help="of each measure in each round, about; default 2")
    return parser.parse_args()


def _path(customer: str, zone: str) -> str:
    return f"/customers/{customer}/statement?month={MONTH:%Y-%m}&timezone={zone}"


def _way(process: Process, name: str, side: str, customer: str, zone: str) -> Way:
    return Way(Samples(name, side, "/s"), partial(read, process.port, _path(customer, zone)))


def _first_reading(process: Process, customer: str) -> str:
    started = time.perf_counter()
    waits, longest = asyncio.run(_until_ready(process, customer))
    elapsed = time.perf_counter() - started
    return f"ready after {elapsed:.1f} s and {waits} answers of 202; the slowest answer took {longest * 1e3:.0f} ms"


async def _until_ready(process: Process, customer: str) -> tuple[int, float]:
    """How often the answer was that the statement is being prepared, and what the slowest answer took."""
    waits, longest = 0, 0.0
    async with Caller(process.port) as call:
        while True:
            sent = time.perf_counter()
            status, body = await call(get(_path(customer, "UTC")))
            longest = max(longest, time.perf_counter() - sent)
            if status == 200:
                return waits, longest
            if status != 202:
                raise RuntimeError(f"a read was answered with {status}: {body[:500]!r}")
            waits += 1
            await asyncio.sleep(POLL_SECONDS)


async def _record_late(process: Process, customer: str) -> None:
    """Record usage of the whole month, long after it."""
    uses = [
        {
            "customerId": customer,
            "service": SERVICES[number % len(SERVICES)],
            "unitsConsumed": "2.5",
            "pricePerUnit": "0.0235",
            "eventId": f"late-{number}",
            "occurredAt": (MONTH + SPAN * number / LATE).isoformat(),
        }
        for number in range(LATE)
    ]
    async with Caller(process.port) as call:
        status, body = await call(post("/usage/batch", batch_body([json.dumps(use).encode() for use in uses])))
        if status != 200:
            raise RuntimeError(f"late usage was answered with {status}: {body[:500]!r}")


if __name__ == "__main__":
    main()
