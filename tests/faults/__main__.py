"""`python -m tests.faults`: a long run of faults, and its report. See README.md beside it."""

import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.faults.machines.run import lose_machines
from tests.faults.plan import make_plan
from tests.faults.run import Report, run_plan


@click.command()
@click.option("--records", default=100_000, show_default=True, help="How many records are reported.")
@click.option("--replication", is_flag=True, help="The loss of machines instead: a primary and its standby.")
@click.option("--seed", type=int, help="Of the records and of the faults; that of a run before replays its plan.")
def main(records: int, seed: int | None, replication: bool) -> None:
    """Report usage while everything fails, and check that nothing is lost and nothing doubled. Exit 1 where it is."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    console = Console(highlight=False)
    if replication:
        lose_machines(records, seed, console)
        return
    plan = make_plan(seed, records)
    console.print(f"seed {seed}: {records:,} records, {len(plan.steps)} steps")
    folder = Path(tempfile.mkdtemp(prefix="billing-faults-"))
    report = asyncio.run(run_plan(plan, folder))
    console.print(_table(report))
    for line in report.violations:
        console.print(f"[red]violated:[/] {line}", markup=True)
    if report.violations:
        for what, examples in report.findings.examples.items():
            console.print(what, *examples, sep="\n  ", markup=False)
        console.print(f"journals and output: {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


def _table(report: Report) -> Table:
    table = Table(title=f"seed {report.plan.seed}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    found = report.findings
    rows = {
        "records": found.records,
        "acknowledged": found.acknowledged,
        "of these by a retry": found.replayed,
        "lost": found.lost,
        "doubled": found.doubled,
        "with other numbers": found.changed,
        "unknown at the end": found.unknown,
        "unexpected duplicates": found.unexpected_duplicates,
        "sums that differ": len(found.differences),
        "faults": report.faults.total(),
    }
    for name, count in (rows | dict(sorted(report.faults.items()))).items():
        table.add_row(name, f"{count:,}", end_section=name == "faults")
    for name in report.left_out:
        table.add_row(name, "left out")
    table.add_row("duration", f"{report.seconds:.0f} s")
    return table


if __name__ == "__main__":
    main()
