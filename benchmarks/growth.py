"""`python -m benchmarks.growth writes|reads|dimensions`: what does not get slower as records pile up."""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from benchmarks.batches import record_batches
from benchmarks.fill import fill, settle
from benchmarks.load import choose_generator
from benchmarks.reads import dimension_ways, export, page_ways, summary_ways
from benchmarks.report import Samples, circumstances, table
from benchmarks.servers import postgresql, query, service, temporary_folder
from benchmarks.singles import record_singles
from benchmarks.stage import Stage, Tally, Way, measure
from benchmarks.usages import SERVICES

CONNECTIONS, BATCH = 64, 1_000
MODELS = 9
MONTH, MONTH_SPAN = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=31)


def main() -> None:
    options = _options()
    with temporary_folder() as folder, postgresql(folder, dict(options.set)) as url, ExitStack() as stack:
        stage = Stage(url, folder, options.customers, choose_generator()[1], [], [])
        {"writes": _writes, "reads": _reads, "dimensions": _dimensions}[options.what](stage, stack, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("what", choices=("writes", "reads", "dimensions"))
    parser.add_argument("--small", type=int, help="records stored on the small side; default 100,000; reads: 1,000")
    parser.add_argument("--records", type=int, help="on the large side; default 20,000,000; reads: 1,000,000")
    parser.add_argument("--customers", type=int, default=100, help="that writes are spread over; default 100")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4, help="of each measure in each round, about; default 4")
    parser.add_argument("--warm-up", type=int, default=1, metavar="SECONDS", help="of each measure, about; default 1")
    parser.add_argument(
        "--set",
        nargs="+",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="settings of PostgreSQL, such as max_wal_size=16GB; its own defaults else",
    )
    options = parser.parse_args()
    small, large = (100_000, 20_000_000) if options.what == "writes" else (1_000, 1_000_000)
    options.small, options.records = options.small or small, options.records or large
    return options


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _writes(stage: Stage, stack: ExitStack, options: argparse.Namespace) -> None:
    """Single records and batches with much stored, and with little."""
    ways: dict[str, list[Way]] = {"singles": [], "batches": []}
    for stored in (options.records, options.small):
        tally = _filled(stage, f"stored_{stored}", stored)
        process = stack.enter_context(service(tally.url, stage.folder))
        title = f"{stored:,} records stored"
        single = partial(record_singles, stage, title, process, tally, CONNECTIONS)
        batch = partial(record_batches, stage, tally, process.port, BATCH, 1)
        ways["singles"].append(Way(Samples(f"single, {CONNECTIONS} connections", title, "/s"), single))
        ways["batches"].append(Way(Samples(f"batches of {BATCH:,}", title, "records/s"), batch))
    _measure([*ways["singles"], *ways["batches"]], stage, options)
    for tally in stage.tallies:
        print(f"- {tally.check()}")


def _filled(stage: Stage, name: str, records: int) -> Tally:
    """A database whose customers have so many records, of the last 30 days."""
    tally = stage.database(name, customers=0)
    span = timedelta(days=30)
    for number in range(stage.customers):
        print(f"{name}: customer {number + 1} of {stage.customers}", file=sys.stderr, flush=True)
        fill(tally.url, f"customer-{number}", records // stage.customers, datetime.now(UTC) - span, span)
    tally.add(records // stage.customers * stage.customers)
    settle(tally.url)
    return tally


def _reads(stage: Stage, stack: ExitStack, options: argparse.Namespace) -> None:
    """Summaries and pages of a customer with much usage in a month, and of one with little; an export of it all."""
    tally = stage.database("reads", customers=0)
    sides = {f"{records:,} records": f"month-{records}" for records in (options.small, options.records)}
    for records, customer in zip((options.small, options.records), sides.values(), strict=True):
        fill(tally.url, customer, records, MONTH, MONTH_SPAN)
    fill(tally.url, "others", options.records, MONTH, MONTH_SPAN)
    settle(tally.url)
    process = stack.enter_context(service(tally.url, stage.folder))
    pages = page_ways(process.port, f"month-{options.records}", options.records)
    _measure(summary_ways(process.port, sides, MONTH) + pages, stage, options)
    if Path("/proc/self/clear_refs").exists():
        print(export(process))


def _dimensions(stage: Stage, stack: ExitStack, options: argparse.Namespace) -> None:
    """Summaries by a dimension that is summed up with the records, beside those by service."""
    tally = stage.database("dimensions", customers=0, counted=False)
    fill(tally.url, "customer", options.records, MONTH, MONTH_SPAN, models=MODELS)
    add = [sys.executable, "-m", "billing_service", "dimensions", "add", "model"]
    subprocess.run(add, env=os.environ | {"DATABASE_URL": tally.url}, check=True)
    settle(tally.url)
    process = stack.enter_context(service(tally.url, stage.folder))
    print(f"- {options.records:,} records, {len(SERVICES)} services, {MODELS} values of the dimension")
    _measure(dimension_ways(process.port, "customer", MONTH), stage, options)


def _shown(options: argparse.Namespace) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.set) or "its own defaults"


def _measure(ways: list[Way], stage: Stage, options: argparse.Namespace) -> None:
    measure(ways, options.rounds, options.seconds, options.warm_up)
    size = query(stage.server_url, "SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")
    facts = {
        "database": f"embedded PostgreSQL {query(stage.server_url, 'SHOW server_version')}, {size}, {_shown(options)}",
        "rounds": f"{options.rounds}, interleaved, of about {options.seconds} s each, after {options.warm_up} s",
    }
    print(circumstances(facts), table(way.samples for way in ways), "", sep="\n\n")


if __name__ == "__main__":
    main()
