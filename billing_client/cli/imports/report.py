"""What an import comes to."""

from typing import Any

import click
from msgspec import structs

from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.imports.totals import ImportTotals, LeftoverFile
from billing_client.cli.tables import number_column, print_table, text_column
from billing_client.contract.decimals import EXACT, plain
from billing_client.contract.wire import printable

SHOWN_CUSTOMERS = 3


def exit_code(totals: ImportTotals) -> ExitCode:
    """With what the command ends."""
    counts = totals.counts
    if counts.rejected:
        return ExitCode.REFUSED
    if counts.lost:
        return ExitCode.DUPLICATE
    return ExitCode.MISSING if counts.missing else ExitCode.DONE


def facts_of(totals: ImportTotals, dry_run: bool) -> dict[str, Any]:
    """The figures, for scripts."""
    return {
        "dryRun": dry_run,
        **structs.asdict(totals.counts),
        "amountRead": totals.as_read,
        "amountStored": totals.as_stored,
        "missingCustomers": sorted(totals.missing_customers),
        "missingFile": _path_of(totals.missing),
        "rejectedFile": _path_of(totals.rejected),
    }


def _path_of(left: LeftoverFile | None) -> str | None:
    return None if left is None or not left.count else str(left.path)


def print_report(totals: ImportTotals, dry_run: bool) -> None:
    """Print the figures, and what they say."""
    counts = totals.counts
    rows = [("lines read", counts.read)]
    rows += [("recorded", counts.recorded)] if totals.missing is None else [("missing", counts.missing)]
    rows += [("replayed", counts.replayed), ("duplicate", counts.duplicate), ("rejected", counts.rejected)]
    amounts = [("total as read", plain(totals.as_read)), ("total as stored", plain(totals.as_stored))]
    lines = [*((name, str(count)) for name, count in rows), *amounts]
    print_table([text_column(""), number_column("")], lines, heading=False)
    for sentence in (*_result(totals, dry_run), *_totals(totals), *_left(totals)):
        click.echo(printable(sentence))


def _result(totals: ImportTotals, dry_run: bool) -> list[str]:
    counts = totals.counts
    if totals.missing is not None:
        what = "Nothing is missing on the server."
        if counts.missing:
            what = f"Missing on the server: {totals.missing.path}"
        elif counts.rejected:
            what = "The rejected lines would not be recorded; nothing else is missing on the server."
        return [f"This was a dry run, nothing was recorded. {what}"]
    if dry_run:
        return ["This was a dry run without event ids: nothing was recorded, the table shows what would have been."]
    if counts.recorded:
        return []
    before = counts.replayed or counts.duplicate
    return [f"Nothing was recorded: {'all of it had been before' if before else 'there is nothing that can be'}."]


def _totals(totals: ImportTotals) -> list[str]:
    counts = totals.counts
    lost = EXACT.subtract(totals.as_read, totals.as_stored)
    if counts.read == counts.rejected:
        return []
    if not counts.repeated:
        return ["Both totals agree to the last digit."]
    share = f" ({100 * lost / totals.as_read:.2f} %)" if totals.as_read else ""
    said = [f"Lines taken for duplicates of other lines: {counts.repeated}. Not billed: {plain(lost)}{share}."]
    if counts.lost:
        said.append(
            f"Of these {counts.lost} have no event id: where they are distinct usage, give each one of its own."
        )
    return said


def _left(totals: ImportTotals) -> list[str]:
    counts, customers = totals.counts, sorted(totals.missing_customers)
    said = []
    if counts.voided:
        said.append(f"Voided, as they are in the file: {counts.voided}; both totals hold them.")
    if customers:
        some = ", ".join(customers[:SHOWN_CUSTOMERS]) + (", ..." if len(customers) > SHOWN_CUSTOMERS else "")
        hint = " Create them, or add --create-customers." if counts.rejected else ""
        said.append(f"Customers that are not on the server: {len(customers)} ({some}).{hint}")
    if counts.rejected:
        said.append(f"The rejected lines are in no total. Their numbers and reasons: {totals.rejected.path}")
    return said
