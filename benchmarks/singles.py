"""Single records: how many a second, and how long each takes, at 64 connections and at one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.report import Sample, Samples
from benchmarks.servers import Process
from benchmarks.stage import Stage, Tally, Way
from benchmarks.systems import Missing, System, running

CONNECTIONS = (64, 1)


@contextmanager
def single_records(stage: Stage, systems: Sequence[System]) -> Iterator[list[Way]]:
    """The systems, running for the block; one that cannot run here is left out."""
    with ExitStack() as stack:
        started: list[tuple[System, Process, Tally]] = []
        for system in systems:
            try:
                command = system.prepare()
            except Missing as missing:
                stage.left_out.append(f"{system.title}: {missing}")
                continue
            tally = stage.database(system.name, counted=system.stores)
            process = stack.enter_context(running(system.name, command, tally.url, stage.folder))
            started.append((system, process, tally))
        yield [
            Way(
                Samples(f"single, {connections} connection{'s' if connections > 1 else ''}", system.title, "/s"),
                partial(record_singles, stage, system.title, process, tally, connections),
            )
            for connections in CONNECTIONS
            for system, process, tally in started
        ]


def record_singles(
    stage: Stage, title: str, process: Process, tally: Tally, connections: int, name: str, seconds: int
) -> Sample:
    """Load a system for some seconds."""
    cpu = process.cpu_seconds()
    load = stage.generator(process.port, connections, seconds, f"{name}-{connections}", stage.customers)
    cpu = process.cpu_seconds() - cpu
    if load.refused:
        raise RuntimeError(f"{title} refused {load.refused} of {load.refused + load.acknowledged} calls")
    tally.add(load.acknowledged, load.undecided)
    return Sample(load.rate, load.p50_ms, load.p99_ms, cpu / load.acknowledged * 1e6)
