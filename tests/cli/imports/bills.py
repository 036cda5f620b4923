"""Files of usage to import, and what an import says of them."""

import csv
import json
from collections.abc import Iterable
from decimal import Decimal, Inexact, localcontext
from pathlib import Path
from typing import Any, NamedTuple

from billing_client import BillingSystemClient, UsageRecord
from tests.cli import billing
from tests.databases import run
from tests.programs import Finished
from tests.services import Service

HEADER = [
    "Id",
    "SubAccountId",
    "SubAccountName",
    "ServiceName",
    "ConsumedQuantity",
    "ListUnitPrice",
    "ChargePeriodStart",
    "Tags",
]
NAMES = ("lines read", "recorded", "missing", "replayed", "duplicate", "rejected", "total as read", "total as stored")


class Import(NamedTuple):
    """What an import said: its exit code, its table by name, and the sentences below."""

    code: int
    table: dict[str, str]
    words: str

    @property
    def lines(self) -> dict[str, int]:
        """How many lines of each kind, where there is one."""
        counts = {name: int(self.table[name]) for name in NAMES[:6] if name in self.table}
        return {name: count for name, count in counts.items() if count}

    @property
    def totals(self) -> tuple[str, str]:
        return self.table["total as read"], self.table["total as stored"]


def figures(output: str) -> dict[str, str]:
    """The table of an import."""
    return {name: line[len(name) :].strip() for line in output.splitlines() for name in NAMES if line.startswith(name)}


def import_file(file: Path, service: Service, *options: str, code: int = 0) -> Import:
    """Run an import that gets to its end, with this exit code."""
    done = billing("import", file, *options, BILLING_BASE_URL=service.url)
    assert (done.returncode, done.stderr) == (code, ""), done
    return read_import(done)


def read_import(done: Finished) -> Import:
    table = figures(done.stdout)
    words = [line for line in done.stdout.splitlines() if not line.startswith(NAMES)]
    return Import(done.returncode, table, "\n".join(words))


def write_bill(bill: Path, *rows: Iterable[str]) -> Path:
    """A FOCUS bill."""
    with bill.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return bill


def line(id_: str, quantity: str, price: str, *, start: str = "2024-09-01 10:00:00", tags: str = "NULL") -> list[str]:
    """A line of a FOCUS bill."""
    return [id_, "4711", "Acme, Inc.", "Object Storage", quantity, price, start, tags]


def write_ndjson(file: Path, *usages: dict[str, Any]) -> Path:
    """Usage as NDJSON."""
    file.write_text("".join(f"{json.dumps(usage)}\n" for usage in usages), "utf-8")
    return file


def rejects_of(file: Path) -> list[tuple[str, str]]:
    """The number and the reason of each rejected line."""
    return left_of(file, "rejected")


def left_of(file: Path, kind: str) -> list[tuple[str, str]]:
    """The number and the reason of each line that an import has left; there is no file where there is none."""
    ndjson = file.with_name(f"{file.stem}.{kind}.ndjson")
    if ndjson.exists():
        notes = [json.loads(line) for line in ndjson.read_bytes().splitlines() if line.startswith(b'{"line":')]
        return [(str(note["line"]), note["reason"]) for note in notes]
    path = file.with_name(f"{file.stem}.{kind}.csv")
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as table:  # csv takes fields of 128 KiB
        return [(row["line"], row["reason"]) for row in csv.DictReader(text[:100_000] for text in table)]


def exact_total(lines: Iterable[tuple[str, str]]) -> str:
    """The sum of units x price, computed apart from the command."""
    with localcontext() as context:
        context.prec = 300
        context.traps[Inexact] = True
        total = sum((Decimal(units) * Decimal(price) for units, price in lines), Decimal(0))
        return f"{total.normalize():f}"


def stored(service: Service, customer_id: str) -> list[UsageRecord]:
    """The records of a customer."""

    async def read() -> list[UsageRecord]:
        async with BillingSystemClient(base_url=service.url) as client:
            return [record async for record in client.usage(customer_id=customer_id, page_size=1_000)]

    return run(read())


def customers(service: Service) -> list[str]:
    """The ids of all customers."""

    async def read() -> list[str]:
        async with BillingSystemClient(base_url=service.url) as client:
            return [customer.id async for customer in client.customers()]

    return run(read())
