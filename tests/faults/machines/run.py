"""Makes every case, as often as the records need, and reports what came of it."""

import asyncio
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import clocks
from tests.faults.machines.cases import Outcome, run_case
from tests.faults.machines.fronts import missing_program
from tests.faults.machines.scenarios import CASES
from tests.faults.machines.stage import Machines

COLUMNS = ("acknowledged", "lost by the fault", "lost", "doubled", "median s until records again", "most")
RECORDS_A_CASE = 25_000  # at most: more of them go on when the fault is long over


def lose_machines(records: int, seed: int, console: Console) -> None:
    """Make every case with its share of the records, and print what came of it. Exit 1 if a promise was broken."""
    folder = Path(tempfile.mkdtemp(prefix="billing-faults-"))
    names = list(_cases_of(records, console))
    console.print(f"seed {seed}: {records:,} records, {len(names)} cases")
    outcomes = []
    for number, name in enumerate(names):
        outcome = asyncio.run(run_case(name, records // len(names), seed + number, folder / str(number)))
        outcomes.append(outcome)
        console.print(f"{number + 1}. {name}: {', '.join(_row([outcome]))} in {outcome.seconds:.0f} s", markup=False)
        if not outcome.violations:
            shutil.rmtree(folder / str(number))
    console.print(_table(outcomes, seed))
    violations = [line for outcome in outcomes for line in outcome.violations]
    for line in violations:
        console.print("violated:", line, markup=False)
    if violations:
        console.print(f"journals and output: {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


def _cases_of(records: int, console: Console) -> Iterator[str]:
    """Those that replicate synchronously as often as the records need, and the others once."""
    missing = {name: program for name, case in CASES.items() if (program := _missing_program(case.machines))}
    kept = [name for name in CASES if name not in missing]
    for name, program in missing.items():
        console.print(f"left out: {name} (needs the program {program})")
    yield from (name for name in kept if CASES[name].may_lose)
    promising = [name for name in kept if not CASES[name].may_lose]
    for _ in range(max(1, math.ceil((records / RECORDS_A_CASE + len(promising) - len(kept)) / len(promising)))):
        yield from promising


def _missing_program(machines: Machines) -> str | None:
    if machines.have_wrong_clocks and not clocks.can_be_wrong():
        return "faketime"
    return missing_program(machines.front)


def _row(outcomes: Sequence[Outcome]) -> list[str]:
    """What a case came to, over all times that it was made."""
    found = [outcome.findings for outcome in outcomes]
    lost, resent = sum(outcome.lost for outcome in outcomes), sum(outcome.resent for outcome in outcomes)
    again = [seconds for outcome in outcomes for seconds in outcome.recoveries]
    return [
        f"{sum(each.acknowledged for each in found):,}",
        f"{lost:,} ({resent:,} resent)" if lost else "0",
        f"{sum(each.lost for each in found):,}",
        f"{sum(each.doubled for each in found):,}",
        f"{statistics.median(again):.2f}" if again else "",
        f"{max(again):.2f}" if again else "",
    ]


def _table(outcomes: Sequence[Outcome], seed: int) -> Table:
    """A row for each case, and one for all that promise to lose nothing."""
    table = Table(title=f"seed {seed}", title_justify="left")
    for name in ("", "times", *COLUMNS):
        table.add_column(name, justify="right" if name else "left")
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    for name in names:
        own = [outcome for outcome in outcomes if outcome.name == name]
        table.add_row(name, str(len(own)), *_row(own), end_section=name == names[-1])
    promising = [outcome for outcome in outcomes if not CASES[outcome.name].may_lose]
    table.add_row("with synchronous replication", str(len(promising)), *_row(promising))
    table.add_row("all", str(len(outcomes)), *_row(outcomes))
    return table
