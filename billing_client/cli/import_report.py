"""What an import comes to."""

from typing import Any

import click
from msgspec import structs

from billing_client.cli.failures import ExitCode
from billing_client.cli.output import number_column, print_table, text_column
from billing_client.cli.tally import LeftLines, Tally
from billing_client.contract.amounts import EXACT, plain

SHOWN_CUSTOMERS = 3


def exit_code(tally: Tally) -> ExitCode:
    """With what the command ends."""
    counts = tally.counts
    if counts.rejected:
        return ExitCode.REFUSED
    if counts.lost:
        return ExitCode.DUPLICATE
    return ExitCode.MISSING if counts.missing else ExitCode.DONE


def facts_of(tally: Tally, dry_run: bool) -> dict[str, Any]:
    """The figures, for scripts."""
    return {
        "dryRun": dry_run,
        **structs.asdict(tally.counts),
        "amountRead": tally.as_read,
        "amountStored": tally.as_stored,
        "missingCustomers": sorted(tally.missing_customers),
        "missingFile": _path_of(tally.missing),
        "rejectedFile": _path_of(tally.rejected),
    }


def _path_of(left: LeftLines | None) -> str | None:
    return None if left is None or not left.count else str(left.path)


def print_report(tally: Tally, dry_run: bool) -> None:
    """Print the figures, and what they say."""
    counts = tally.counts
    rows = [("lines read", counts.read)]
    rows += [("recorded", counts.recorded)] if tally.missing is None else [("missing", counts.missing)]
    rows += [("replayed", counts.replayed), ("duplicate", counts.duplicate), ("rejected", counts.rejected)]
    totals = [("total as read", plain(tally.as_read)), ("total as stored", plain(tally.as_stored))]
    lines = [*((name, str(count)) for name, count in rows), *totals]
    print_table([text_column(""), number_column("")], lines, heading=False)
    for sentence in (*_result(tally, dry_run), *_totals(tally), *_left(tally)):
        click.echo(sentence)


def _result(tally: Tally, dry_run: bool) -> list[str]:
    counts = tally.counts
    if tally.missing is not None:
        what = f"Missing on the server: {tally.missing.path}" if counts.missing else "Nothing is missing on the server."
        return [f"This was a dry run, nothing was recorded. {what}"]
    if dry_run:
        return ["This was a dry run without event ids: nothing was recorded, the table shows what would have been."]
    if counts.recorded:
        return []
    before = counts.replayed or counts.duplicate
    return [f"Nothing was recorded: {'all of it had been before' if before else 'there is nothing that can be'}."]


def _totals(tally: Tally) -> list[str]:
    counts = tally.counts
    lost = EXACT.subtract(tally.as_read, tally.as_stored)
    if not counts.repeated:
        return ["Both totals agree to the last digit."]
    share = f" ({100 * lost / tally.as_read:.2f} %)" if tally.as_read else ""
    said = [f"Lines taken for duplicates of other lines: {counts.repeated}. Not billed: {plain(lost)}{share}."]
    if counts.lost:
        said.append(
            f"Of these {counts.lost} have no event id: where they are distinct usage, give each one of its own."
        )
    return said


def _left(tally: Tally) -> list[str]:
    counts, customers = tally.counts, sorted(tally.missing_customers)
    said = []
    if counts.voided:
        said.append(f"Voided, as they are in the file: {counts.voided}; both totals hold them.")
    if customers:
        some = ", ".join(customers[:SHOWN_CUSTOMERS]) + (", ..." if len(customers) > SHOWN_CUSTOMERS else "")
        said.append(f"Customers that are not on the server: {len(customers)} ({some}).")
    if counts.rejected:
        said.append(f"The rejected lines are in no total. Their numbers and reasons: {tally.rejected.path}")
    return said
