"""`python -m benchmarks.refusals`: the CPU time of recording while refusals are kept, and while they are not.

Two services, one of which keeps no refusals, take the same calls in turn: single records at 64 connections, a share of
which report an event id again with other data. The CPU time is that of the service and of the database together, with
what is written after the answers.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import uvloop

from benchmarks.load import Caller, post
from benchmarks.report import circumstances
from benchmarks.servers import (
    SERVE,
    DatabaseServer,
    Process,
    create_database,
    database_server,
    postgresql,
    server_process,
    temporary_folder,
)
from benchmarks.usages import Workload

CONNECTIONS, CUSTOMERS = 64, 100
SETTLED_SECONDS = 1.5  # within which what was refused is written
DAYS = {"kept": "30", "not kept": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refusals", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of a round; default 20,000")
    parser.add_argument("--rounds", type=int, default=9, help="of each service and share, in turn; default 9")
    parser.add_argument("--percent", type=int, nargs="+", default=[0, 1, 10], help="of the calls that are refused")
    options = parser.parse_args()
    with temporary_folder() as folder, postgresql(folder) as server_url, ExitStack() as stack:
        database = database_server(folder)
        services = {}
        for name, days in DAYS.items():
            url = create_database(server_url, name.replace(" ", "_"), CUSTOMERS)
            environment = {"DATABASE_URL": url, "BILLING_REFUSAL_DAYS": days, "BILLING_LOG_LEVEL": "warning"}
            services[name] = stack.enter_context(server_process(name, SERVE, environment, folder))
        print(_report(services, database, options))


def _report(services: dict[str, Process], database: DatabaseServer, options: argparse.Namespace) -> str:
    lines = [
        "| refused | CPU µs a call, not kept | kept | ratio | min - max |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for percent in options.percent:
        taken: dict[str, list[float]] = {name: [] for name in services}
        for number in range(options.rounds + 1):
            print(f"{percent} %, round {number} of {options.rounds}", file=sys.stderr, flush=True)
            for name in (sorted if number % 2 else list)(services):
                calls = _calls(f"{name}-{percent}-{number}", options.calls, percent)
                cpu = _round(services[name], database, calls)
                if number:  # the first warms up
                    taken[name].append(cpu / options.calls * 1e6)
        ratios = [kept / other for kept, other in zip(taken["kept"], taken["not kept"], strict=True)]
        lines.append(
            f"| {percent} % | {median(taken['not kept']):.1f} | {median(taken['kept']):.1f} | **{median(ratios):.3f}** "
            f"| {min(ratios):.3f} - {max(ratios):.3f} |"
        )
    facts = {"rounds": f"{options.rounds} of {options.calls:,} calls each, interleaved"}
    return "\n\n".join([circumstances(facts), "\n".join(lines)])


def _calls(name: str, number: int, percent: int) -> list[bytes]:
    """Reports of new usage, `percent` of them with the event id of the one before and another price."""
    calls: list[bytes] = []
    for n, body in enumerate(Workload(name, CUSTOMERS).bodies(number)):
        is_refused = n * percent % 100 >= 100 - percent  # the one before is not
        calls.append(calls[-1].replace(b"0.0235", b"0.0236") if is_refused else post("/usage", body))
    return calls


def _round(service: Process, database: DatabaseServer, calls: Sequence[bytes]) -> float:
    """Send the calls; the CPU seconds that they took."""
    before = service.cpu_seconds() + database.cpu_seconds()
    uvloop.run(_send(service.port, calls))
    time.sleep(SETTLED_SECONDS)
    return service.cpu_seconds() + database.cpu_seconds() - before


async def _send(port: int, calls: Sequence[bytes]) -> None:
    async def caller(first: int) -> None:
        async with Caller(port) as call:
            for request in calls[first::CONNECTIONS]:
                status, body = await call(request)
                if status not in (201, 422):
                    raise RuntimeError(f"a call was answered with {status}: {body[:500]!r}")

    await asyncio.gather(*(caller(first) for first in range(CONNECTIONS)))


if __name__ == "__main__":
    main()
