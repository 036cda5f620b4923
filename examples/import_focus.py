"""Import a cloud bill in FOCUS 1.0 CSV, of any size. Run it as often as you like: each line is recorded once.

    pip install "billing-system[examples]"
    python examples/import_focus.py bill.csv

SubAccountId is the customer, ServiceName the service, ConsumedQuantity the units, ListUnitPrice the price, and the
line's Id, where it has one, the event id. Lines that cannot be recorded go to bill.rejected.csv, which can be corrected
and imported in its turn. `--without-event-ids` is a dry run that records no usage: it shows what would be lost if equal
customer, service, units and price always meant the same usage.
"""

import argparse
import asyncio
import csv
import os
import sqlite3
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from pathlib import Path
from typing import NamedTuple, TextIO

import rich.progress
from rich.console import Console
from rich.table import Column, Table

from billing_client import (
    BillingError,
    BillingSystemClient,
    CustomerExistsError,
    EventIdConflictError,
    Usage,
    UsageOutcome,
    ValidationError,
)

REQUIRED = ("SubAccountId", "ServiceName", "ConsumedQuantity", "ListUnitPrice", "ChargePeriodStart")
COLUMNS = (*REQUIRED, "SubAccountName", "Id")
LONGEST_LINE = 1 << 24  # what is longer is cut there, and rejected
REMEMBERED_CUSTOMERS = 100_000
EXACT = Context(prec=200, traps=[Inexact])  # a total that would have to be rounded is an error
NO_USAGE = Usage(customer_id="", service="", units_consumed="", price_per_unit="")  # the client rejects it, unsent


class Line(NamedTuple):
    """One line of the bill: the line of the file where it begins, its cells that matter here, and its fault."""

    number: int
    cells: dict[str, str]
    fault: str = ""


def read_bill(file: TextIO) -> Iterator[Line]:
    """The lines of a bill, one at a time. Raises csv.Error where the file is no such bill."""
    reader = csv.reader(iter(lambda: file.readline(LONGEST_LINE), ""), strict=True)
    header = next(reader, [])
    if missing := [name for name in REQUIRED if name not in header]:
        raise csv.Error(f"its first line does not name {', '.join(missing)}")
    positions = {name: header.index(name) for name in COLUMNS if name in header}
    while True:
        number = reader.line_num + 1  # a quoted line break makes a line of the bill span lines of the file
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(number, {}, f"it is not CSV (read up to line {reader.line_num}): {error}")
            continue
        if len(row) == len(header):
            yield Line(number, {name: "" if row[at] == "NULL" else row[at] for name, at in positions.items()})
        elif row:
            yield Line(number, {}, f"it has {len(row)} fields, the first line {len(header)}")


def to_usage(line: Line, with_event_ids: bool) -> Usage:
    """What a line reports. Raises ValueError; what else may be wrong with its values, the client says."""
    if line.fault:
        raise ValueError(line.fault)
    if empty := [name for name in REQUIRED if not line.cells[name]]:
        raise ValueError(f"it has no {', '.join(empty)}")
    try:
        start = datetime.fromisoformat(line.cells["ChargePeriodStart"])
    except ValueError as error:
        raise ValueError(f"ChargePeriodStart: {error}") from error
    return Usage(
        customer_id=line.cells["SubAccountId"],
        service=line.cells["ServiceName"],
        units_consumed=line.cells["ConsumedQuantity"],
        price_per_unit=line.cells["ListUnitPrice"],
        event_id=(line.cells.get("Id") or None) if with_event_ids else None,
        occurred_at=start if start.tzinfo else start.replace(tzinfo=UTC),
    )


class Tally:
    """What became of the lines. The rejected ones are in the file `rejects`; where there are none, it is removed."""

    def __init__(self, rejects: Path) -> None:
        self.counts = Counter[str]()
        self.as_read = self.as_stored = Decimal(0)
        self.rejects = rejects
        self._file = rejects.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["line", "reason", *COLUMNS])
        self._disk = sqlite3.connect("", isolation_level=None)  # "": in a temporary file, however many there are
        self._disk.execute("PRAGMA journal_mode = OFF")
        self._disk.execute("CREATE TABLE seen (request_id BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, line: Line, outcome: UsageOutcome) -> None:
        """Count a line and its money: as the bill has it, and, each record once, as the service has it."""
        self.counts["read"] += 1
        usage, record = outcome.usage, outcome.record
        if record is None or outcome.outcome == "conflict":
            self._reject(line, outcome.error)
            return
        amount = EXACT.multiply(Decimal(usage.units_consumed), Decimal(usage.price_per_unit))
        self.as_read = EXACT.add(self.as_read, amount)
        seen = (bytes.fromhex(record.request_id),)
        first = self._disk.execute("INSERT OR IGNORE INTO seen VALUES (?)", seen).rowcount == 1
        if first:
            self.as_stored = EXACT.add(self.as_stored, record.amount)
        # a dry run stores nothing, so the service does not know what earlier batches of it held
        self.counts["recorded" if first and outcome.outcome != "duplicate" else "duplicate"] += 1
        self.counts["repeated"] += not first

    def _reject(self, line: Line, error: BillingError | None) -> None:
        self.counts["rejected"] += 1
        reason = line.fault or (error.detail if error else "")
        if isinstance(error, EventIdConflictError):
            reason += "".join(f" {c.field}: recorded {c.recorded}, submitted {c.submitted}." for c in error.conflicts)
        self._writer.writerow([line.number, reason, *(line.cells.get(name) for name in COLUMNS)])

    def close(self) -> None:
        self._disk.close()
        self._file.close()
        if not self.counts["rejected"]:
            self.rejects.unlink()


async def import_bill(file: TextIO, tally: Tally, url: str, batch_size: int, with_event_ids: bool) -> None:
    """Record every line of a bill. Raises csv.Error, BillingError."""
    async with BillingSystemClient(base_url=url, max_attempts=2) as client:
        await anext(client.customers(page_size=1), None)  # where there is no service, say so at once
    sent: deque[Line] = deque()
    async with BillingSystemClient(base_url=url, timeout=60, max_attempts=100) as client:  # outlasts a restart
        usages = read_usages(client, file, sent, with_event_ids)
        async for outcome in client.record_usages(usages, batch_size=batch_size, dry_run=not with_event_ids):
            tally.add(sent.popleft(), outcome)  # outcomes come in the order of what was sent


async def read_usages(
    client: BillingSystemClient, file: TextIO, sent: deque[Line], with_event_ids: bool
) -> AsyncIterator[Usage]:
    """The usage of each line, whose customer then exists; the line itself is put into `sent`."""
    customers: set[str] = set()
    for line in read_bill(file):
        try:
            usage = to_usage(line, with_event_ids)
            if usage.customer_id not in customers:
                await ensure_customer(client, usage.customer_id, line.cells.get("SubAccountName"))
        except (ValueError, ValidationError) as error:
            fault = error.detail if isinstance(error, ValidationError) else str(error)
            line, usage = line._replace(fault=fault), NO_USAGE
        if len(customers) == REMEMBERED_CUSTOMERS:
            customers.clear()
        customers.add(usage.customer_id)
        sent.append(line)
        yield usage


async def ensure_customer(client: BillingSystemClient, customer_id: str, name: str | None) -> None:
    with suppress(CustomerExistsError):
        await client.create_customer(customer_id=customer_id, name=name or customer_id)


def show(tally: Tally, dry_run: bool) -> None:
    """Print the figures, and what they say."""
    lost = EXACT.subtract(tally.as_read, tally.as_stored)
    table = Table("lines read", Column(str(tally.counts["read"]), overflow="fold"))  # a digit cut off would be a lie
    for name in ("recorded", "duplicate", "rejected"):
        table.add_row(name, str(tally.counts[name]))
    table.add_row("total as read", f"{EXACT.normalize(tally.as_read):f}")
    table.add_row("total as stored", f"{EXACT.normalize(tally.as_stored):f}")
    Console(highlight=False).print(table)
    if dry_run:
        print("This was a dry run without event ids: no usage was recorded, the table shows what would have been.")
    elif not tally.counts["recorded"]:
        before = tally.counts["duplicate"]
        print(f"Nothing was recorded: {'all of it had been before' if before else 'there is nothing that can be'}.")
    if lost:
        money = f"{EXACT.normalize(lost):f} ({100 * lost / tally.as_read:.2f} %)"
        print(f"Lines taken for duplicates of other lines: {tally.counts['repeated']}. Not billed: {money}.")
    else:
        print("Both totals agree to the last digit.")
    if tally.counts["rejected"]:
        print(f"The rejected lines are in no total. Their numbers and reasons: {tally.rejects}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Import a cloud bill in FOCUS 1.0 CSV; each line is recorded once.")
    parser.add_argument("file", type=Path, help="the bill")
    parser.add_argument("--url", default=os.environ.get("BILLING_BASE_URL", "http://127.0.0.1:3000"))
    parser.add_argument("--batch-size", type=int, default=1_000, metavar="N", help="lines a call, 1 to 10000")
    parser.add_argument("--without-event-ids", action="store_true", help="a dry run: what would be lost without them")
    options = parser.parse_args()
    if not 1 <= options.batch_size <= 10_000:
        parser.error("--batch-size must be 1 to 10000")
    return options


def main() -> None:
    options = read_options()
    bill, dry_run = options.file, options.without_event_ids
    folder = bill.parent if os.access(bill.parent, os.W_OK) else Path()
    rejects = folder / f"{bill.stem}.rejected.csv"
    bar = Console(stderr=True)
    with (
        rich.progress.open(bill, "r", -1, "utf-8-sig", "surrogateescape", newline="", console=bar) as file,
        closing(Tally(rejects)) as tally,
    ):
        asyncio.run(import_bill(file, tally, options.url, options.batch_size, with_event_ids=not dry_run))
    show(tally, dry_run)


if __name__ == "__main__":
    try:
        main()
    except csv.Error as error:
        sys.exit(f"This is not a FOCUS bill in CSV: {error}.")
    except OSError as error:
        sys.exit(str(error))
    except BillingError as error:
        sys.exit(
            f"The import stopped: {error.detail.rstrip('.')}. Run it again: only what is missing will be recorded."
        )
    except KeyboardInterrupt:
        sys.exit("The import was stopped. Run it again: only what is missing will be recorded.")
