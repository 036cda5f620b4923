"""`python -m benchmarks.scaling`: single records on 1, 2, 4 ... workers with as many load generators, each on a core of
its own as far as the machine has them.

For each part it prints how many records a second one core of it takes: of its CPU time, so other programs disturb it
little. That is what a machine of another size can be reckoned with. The table says which parts had to share a core.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.load import Generator, Load, choose_generator
from benchmarks.report import circumstances
from benchmarks.servers import DatabaseServer, Process, database_server, postgresql, service, temporary_folder
from benchmarks.stage import Stage, Tally

PARTS = ("workers", "PostgreSQL", "generators")
CAN_PIN = hasattr(os, "sched_setaffinity")  # Linux


class Placement(NamedTuple):
    """The cores that each part runs on, one for each worker and each generator."""

    workers: list[int]
    database: list[int]
    generators: list[int]

    def __str__(self) -> str:
        told = [f"{name} {', '.join(map(str, sorted(set(cores))))}" for name, cores in zip(PARTS, self, strict=True)]
        used = [core for cores in self for core in cores]
        shared = sorted({core for core in used if used.count(core) > 1})
        return "; ".join(told) + (f"; shared: {', '.join(map(str, shared))}" if shared else "; none is shared")


def place(cores: Sequence[int], workers: int) -> Placement:
    """Which cores to use: workers first, then generators; PostgreSQL gets what is left. Where they are too few they are
    shared in turn, and PostgreSQL runs on all of them."""
    turns = [cores[n % len(cores)] for n in range(2 * workers)]
    return Placement(turns[:workers], list(cores[2 * workers :] or cores), turns[workers:])


class Round(NamedTuple):
    """Records a second, and the CPU seconds that each of PARTS took for a record."""

    rate: float
    costs: tuple[float, ...]


def main() -> None:
    options = _options()
    generator_name, generator = choose_generator()
    cores = sorted(os.sched_getaffinity(0)) if CAN_PIN else list(range(os.cpu_count() or 1))
    lines = []
    with temporary_folder() as folder, postgresql(folder) as url:
        stage = Stage(url, folder, options.customers, generator, [], [])
        for workers in options.workers:
            placement = place(cores, workers)
            print(f"{workers} workers: {placement}", file=sys.stderr, flush=True)
            lines.append(_line(workers, placement, list(_rounds(stage, workers, placement, options))))
        facts = {
            "cores": f"{', '.join(map(str, cores))}{'' if CAN_PIN else '; this system pins no process'}",
            "load": f"{generator_name}, {options.connections} connections each; {options.customers} customers",
            "rounds": f"{options.rounds} of {options.seconds} s",
        }
        print(circumstances(facts), *_head(), *lines, "", *(f"- {tally.check()}" for tally in stage.tallies), sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition("\n")[0]
    )
    doubled = [2**n for n in range((os.cpu_count() or 1).bit_length())]
    parser.add_argument(
        "--workers", type=int, nargs="+", default=doubled, metavar="N", help="default 1, 2, 4 ... cores"
    )
    parser.add_argument("--connections", type=int, default=64, help="of each generator; default 64")
    parser.add_argument("--customers", type=int, default=100, help="that the usage is spread over; default 100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each round; default 4")
    return parser.parse_args()


def _rounds(stage: Stage, workers: int, placement: Placement, options: argparse.Namespace) -> Iterator[Round]:
    """Load so many workers, and tell what each round took."""
    tally = stage.database(f"workers_{workers}")
    database = database_server(stage.folder)
    spawned = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        generators = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawned))
        process = stack.enter_context(service(tally.url, stage.folder, "--workers", str(workers)))
        running = psutil.Process(process.pid).children(recursive=True) if workers > 1 else [psutil.Process(process.pid)]
        for worker, core in zip((each.pid for each in running[-workers:]), placement.workers, strict=True):
            _pin(worker, [core])
        for number in range(options.rounds + 1):
            _pin_database(database, placement.database)
            one = _round(stage.generator, generators, (process, database, tally), placement, (number, options))
            if number:  # else it warmed up
                yield one


def _round(
    generator: Generator,
    generators: ProcessPoolExecutor,
    parts: tuple[Process, DatabaseServer, Tally],
    placement: Placement,
    run: tuple[int, argparse.Namespace],
) -> Round:
    process, database, tally = parts
    number, options = run
    before = process.cpu_seconds(), database.cpu_seconds()
    load = (process.port, options.connections, options.seconds)
    started = [
        generators.submit(_drive, generator, load, f"round-{number}-{n}", options.customers, core)
        for n, core in enumerate(placement.generators)
    ]
    done = [each.result() for each in started]
    time.sleep(0.1)  # what was under way when the load stopped is answered
    spent = process.cpu_seconds() - before[0], database.cpu_seconds() - before[1], sum(cpu for _, cpu in done)
    acknowledged = sum(each.acknowledged for each, _ in done)
    if refused := sum(each.refused for each, _ in done):
        raise RuntimeError(f"{refused} calls were refused, {acknowledged} were not")
    tally.add(acknowledged, sum(each.undecided for each, _ in done))
    return Round(sum(each.rate for each, _ in done), tuple(seconds / acknowledged for seconds in spent))


def _drive(
    generator: Generator, load: tuple[int, int, int], name: str, customers: int, core: int
) -> tuple[Load, float]:
    """One generator, in a process of its own; what it met, and its CPU seconds."""
    _pin(os.getpid(), [core])
    before = _own_cpu_seconds()
    return generator(*load, name, customers), _own_cpu_seconds() - before


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(each.ru_utime + each.ru_stime for each in used)


def _pin(pid: int, cores: Iterable[int]) -> None:
    """Let a process, with all its threads, run on these cores alone, if the system can."""
    if CAN_PIN:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)


def _pin_database(server: DatabaseServer, cores: Sequence[int]) -> None:
    for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children()]:
        try:
            _pin(process.pid, cores)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue  # it has ended


def _head() -> list[str]:
    columns = ["workers", "records/s", *(f"a core of {part}" for part in PARTS), "cores"]
    return ["", f"| {' | '.join(columns)} |", "| ---: | ---: |" + " ---: |" * len(PARTS) + " --- |"]


def _line(workers: int, placement: Placement, rounds: Sequence[Round]) -> str:
    costs = [median(part) for part in zip(*(one.costs for one in rounds), strict=True)]
    cells = [f"{median(one.rate for one in rounds):,.0f}", *(f"{1 / cost:,.0f}" for cost in costs), str(placement)]
    return f"| {workers} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
