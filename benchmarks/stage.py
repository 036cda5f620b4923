"""What every measure needs: where to run, ways to be timed, and the tallies that are checked when all is over."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from benchmarks.load import Generator
from benchmarks.report import Sample, Samples
from benchmarks.servers import create_database, query


class Tally(Struct):
    """How many records of a database were acknowledged, and at most how many more may be stored."""

    name: str
    url: str
    acknowledged: int = 0
    undecided: int = 0

    def add(self, acknowledged: int, undecided: int = 0) -> None:
        self.acknowledged += acknowledged
        self.undecided += undecided

    def check(self) -> str:
        """Count what is stored. Raises RuntimeError where something acknowledged is missing."""
        stored: int = query(self.url, "SELECT count(*) FROM usage_records")
        said = f"{self.name}: {self.acknowledged:,} records acknowledged, {stored:,} stored"
        if not self.acknowledged <= stored <= self.acknowledged + self.undecided:
            raise RuntimeError(f"{said}, where at most {self.undecided:,} were under way when a load stopped")
        return said


class Way(NamedTuple):
    """One way of doing a thing, to be timed each round: it takes the name of the run and about how many seconds."""

    samples: Samples
    run: Callable[[str, int], Sample]


class Stage(Struct):
    """Where the measures run."""

    server_url: str
    folder: Path
    customers: int
    generator: Generator
    tallies: list[Tally]
    left_out: list[str]

    def database(self, name: str, *, customers: int | None = None, counted: bool = True) -> Tally:
        """A new database, whose records will be counted unless it gets none."""
        number = self.customers if customers is None else customers
        tally = Tally(name, create_database(self.server_url, f"benchmark_{name}", number))
        if counted:
            self.tallies.append(tally)
        return tally


def measure(ways: Sequence[Way], rounds: int, seconds: int, warm_up: int = 1) -> None:
    """Warm up, then take a sample of each way in turn, round by round."""
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}" if number else "warming up", file=sys.stderr, flush=True)
        for way in ways:
            sample = way.run(f"round-{number}", seconds if number else warm_up)
            if number:
                way.samples.rounds.append(sample)
