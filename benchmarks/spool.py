"""`python -m benchmarks.spool`: how long a large spool takes to open, and how fast it is delivered."""

import argparse
import asyncio
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.clients import BATCH_SIZE, usage_of
from benchmarks.load import choose_generator
from benchmarks.report import Sample, Samples, circumstances, table
from benchmarks.servers import postgresql, query, service, temporary_folder
from benchmarks.stage import Stage, Tally, Way, measure
from benchmarks.usages import Workload
from billing_client import BillingSystemClient
from billing_client.spooling.spool import Spool

RECORDS_PER_SECOND = 15_000
NOWHERE = "http://127.0.0.1:1"
MEASURE = f"delivery, one batch of {BATCH_SIZE:,} at a time"


def main() -> None:
    options = _options()
    with temporary_folder() as folder, postgresql(folder, {}) as url, ExitStack() as stack:
        spool = folder / "usage.db"
        stage = Stage(url, folder, options.customers, choose_generator()[1], [], [])
        asyncio.run(_fill(spool, stage.customers, options.records))
        print(f"- a spool of {options.records:,} records, {spool.stat().st_size >> 20} MiB: {_open(spool)}", flush=True)
        tally = stage.database("spool")
        process = stack.enter_context(service(tally.url, folder))
        ways = [
            Way(Samples(MEASURE, "recorder", "records/s"), partial(_deliver, tally, process.port, spool)),
            Way(Samples(MEASURE, "record_usages", "records/s"), partial(_record_usages, stage, tally, process.port)),
        ]
        measure(ways, options.rounds, options.seconds)
        facts = {
            "database": f"embedded PostgreSQL {query(url, 'SHOW server_version')}, its own defaults",
            "rounds": f"{options.rounds}, interleaved, of about {options.seconds} s each",
        }
        print(circumstances(facts), table(way.samples for way in ways), f"- {tally.check()}", sep="\n\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spool", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="that the spool holds; default 1,000,000")
    parser.add_argument("--customers", type=int, default=100, help="that the usage is spread over; default 100")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4, help="of each measure in each round, about; default 4")
    return parser.parse_args()


async def _fill(spool: Path, customers: int, records: int) -> None:
    """Record usage while the service is away."""
    workload = Workload("spooled", customers)
    async with (
        BillingSystemClient(base_url=NOWHERE) as client,
        client.recorder(spool=spool, close_timeout=0, max_records=records, max_bytes=records * 1_000) as recorder,
    ):
        for _ in range(records // BATCH_SIZE):
            await recorder.record_many(map(usage_of, workload.bodies(BATCH_SIZE)))


def _open(spool: Path) -> str:
    """The seconds that it takes to open the spool and to count what it holds, as a recorder does: the best of three."""
    taken = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        with Spool(spool) as opened:
            opened.status()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(taken)
    return f"opens in {wall:.2f} s, {cpu:.2f} s of CPU time"


def _deliver(tally: Tally, port: int, spool: Path, _: str, seconds: int) -> Sample:
    """Deliver as much of the spool as `_record_usages` records."""
    sample, delivered = asyncio.run(_delivered(port, spool, seconds * RECORDS_PER_SECOND))
    tally.add(delivered, BATCH_SIZE)  # the batch under way at the end is delivered again, and counts once
    return sample


async def _delivered(port: int, spool: Path, least: int) -> tuple[Sample, int]:
    async with (
        BillingSystemClient(base_url=f"http://127.0.0.1:{port}") as client,
        client.recorder(spool=spool, close_timeout=0, max_records=10**9, max_bytes=10**12) as recorder,
    ):
        if recorder.counts.pending < least:
            raise RuntimeError("the spool holds too few records for so many rounds of so many seconds; give it more")
        wall, cpu = time.perf_counter(), time.process_time()
        while recorder.counts.delivered < least:
            await recorder.flush(timeout=0.05)
        elapsed, cpu = time.perf_counter() - wall, time.process_time() - cpu
        delivered = recorder.counts.delivered
    counts = recorder.counts
    if counts.duplicates or counts.dead:
        raise RuntimeError(f"the spool was not delivered as it should: {counts}")
    return Sample(delivered / elapsed, cpu_us=cpu / delivered * 1e6), counts.delivered


def _record_usages(stage: Stage, tally: Tally, port: int, name: str, seconds: int) -> Sample:
    """Record fresh usage for about some seconds."""
    workload = Workload(name, stage.customers)
    usages = [usage_of(body) for body in workload.bodies(seconds * RECORDS_PER_SECOND)]

    async def run() -> Sample:
        async with BillingSystemClient(base_url=f"http://127.0.0.1:{port}") as client:
            wall, cpu = time.perf_counter(), time.process_time()
            outcomes = {outcome.outcome async for outcome in client.record_usages(usages, batch_size=BATCH_SIZE)}
            elapsed, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if outcomes != {"recorded"}:
            raise RuntimeError(f"the batches had the outcomes {outcomes}")
        return Sample(len(usages) / elapsed, cpu_us=cpu / len(usages) * 1e6)

    sample = asyncio.run(run())
    tally.add(len(usages))
    return sample


if __name__ == "__main__":
    main()
