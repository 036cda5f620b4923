"""The check: what producers meant and were told, against what is stored and what it is summed up to."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from functools import reduce

import asyncpg
import msgspec
from msgspec import Struct

from billing_client import BillingSystemClient, CustomerSummary
from tests.faults.journal import Acknowledged, Doubted, Intended, Kept, Refused, read_journal
from tests.faults.producer import Task
from tests.faults.usages import Line

_EXACT = Context(prec=200, traps=[Inexact])
_CHUNK = 10_000
_EXAMPLES = 3
Sums = tuple[int, Decimal, Decimal]
NOTHING: Sums = (0, Decimal(0), Decimal(0))


class Findings(Struct):
    """What the check counted; `differences` are sums that do not agree, as lines for a person."""

    records: int = 0
    acknowledged: int = 0
    replayed: int = 0
    lost: int = 0
    changed: int = 0
    doubled: int = 0
    unknown: int = 0
    unexpected_duplicates: int = 0
    refused: int = 0
    differences: list[str] = []
    examples: dict[str, list[str]] = {}

    def note(self, what: str, example: object) -> None:
        setattr(self, what, getattr(self, what) + 1)
        examples = self.examples.setdefault(what, [])
        if len(examples) < _EXAMPLES:
            examples.append(str(example))


class _Report(Struct, gc=False):
    """A report as its producer meant it."""

    producer: int
    facts: bytes
    sums: tuple[Decimal, Decimal]
    is_owed: bool = False
    stored: int = 0


class Check:
    """Reads the journals, then holds them against the database and the service."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.findings = Findings()
        self._reports: dict[bytes, _Report] = {}
        self._meant: dict[str, Sums] = {}
        for task in tasks:
            self._read(task)

    def _read(self, task: Task) -> None:
        """The reports of a producer, and whether what it was told is what it meant."""
        open_: dict[int, _Report] = {}
        reports: dict[int, _Report] = {}
        doubted: set[int] = set()
        for entry in read_journal(task.journal):
            match entry:
                case Intended():
                    id_, report = _report(task.index, entry.line)
                    self._reports[id_] = open_[entry.number] = reports[entry.number] = report
                    self._add(f"producer {task.index}", *report.sums)
                    self._add(entry.line.customer_id, *report.sums)
                    self.findings.records += 1
                case Doubted():
                    doubted |= open_.keys()
                case Kept():
                    for number in entry.numbers:
                        open_.pop(number).is_owed = True
                case Acknowledged():
                    self._judge(task, entry, reports[entry.number], entry.number in doubted)
                    open_.pop(entry.number, None)
                case Refused():
                    self.findings.note("refused", f"producer {task.index}, {entry.number}: {entry.error}")
        self.findings.unknown += len(open_)

    def _judge(self, task: Task, told: Acknowledged, report: _Report, is_doubted: bool) -> None:
        """A duplicate is to be expected of a report in doubt that is made once more, where the caller has no key."""
        report.is_owed = True
        where = f"producer {task.index}, {told.number}: {told}"
        is_right = (
            (told.units, told.price) == report.sums
            and told.amount == _EXACT.multiply(*report.sums)
            and self._reports.get(bytes.fromhex(told.request_id)) is report
        )
        if not is_right:
            self.findings.note("changed", where)
        if told.outcome == "duplicate" and not (is_doubted and task.kind != "single"):
            self.findings.note("unexpected_duplicates", where)
        self.findings.replayed += told.outcome != "recorded"

    def _add(self, key: str, units: Decimal, price: Decimal) -> None:
        records, all_units, amount = self._meant.get(key, NOTHING)
        added = _EXACT.add(amount, _EXACT.multiply(units, price))
        self._meant[key] = (records + 1, _EXACT.add(all_units, units), added)

    async def hold_against(self, database_url: str, client: BillingSystemClient) -> Findings:
        """Look at every record and every sum."""
        stored = await self._look_at_records(database_url)
        for id_, report in self._reports.items():
            self.findings.acknowledged += report.is_owed
            if report.is_owed and not report.stored:
                self.findings.note("lost", f"{id_.hex()}: {report.facts.decode()}")
            self.findings.doubled += max(0, report.stored - 1)
        self._compare("the records", stored, self._meant)
        of_customers = {key: sums for key, sums in self._meant.items() if not key.startswith("producer ")}
        rollups = {
            each.customer_id: (each.total.records, _all_units(each), each.total.amount)
            async for each in client.summaries(group_by=("service",))
            if each.total.records
        }
        self._compare("the rollups", rollups, of_customers)
        return self.findings

    async def _look_at_records(self, database_url: str) -> dict[str, Sums]:
        """Find each stored record among the reports; the sums of what is stored, by producer and by customer."""
        events: Counter[str | None] = Counter()
        found: dict[str, Sums] = {}
        connection = await asyncpg.connect(database_url)
        try:
            async with connection.transaction():
                async for row in connection.cursor(_ALL_RECORDS, prefetch=_CHUNK):
                    keys = [row["customer_id"]]
                    if report := self._reports.get(row["request_id"]):
                        report.stored += 1
                        keys.append(f"producer {report.producer}")
                        events[row["event_id"]] += 1
                        if report.facts != _facts_of_row(row):
                            self.findings.note("changed", dict(row))
                    else:
                        self.findings.note("doubled", f"stored, and never meant: {dict(row)}")
                    for key in keys:
                        records, units, amount = found.get(key, NOTHING)
                        found[key] = (
                            records + 1,
                            _EXACT.add(units, row["units_consumed"]),
                            _EXACT.add(amount, row["amount"]),
                        )
        finally:
            await connection.close()
        self.findings.doubled += sum(count - 1 for event, count in events.items() if event is not None)
        return found

    def _compare(self, what: str, found: dict[str, Sums], meant: dict[str, Sums]) -> None:
        for key in sorted(found.keys() | meant.keys()):
            if found.get(key, NOTHING) != meant.get(key, NOTHING):
                difference = f"{key}: {what} say {found.get(key, NOTHING)}, the producers {meant.get(key, NOTHING)}"
                self.findings.differences.append(difference)


_ALL_RECORDS = """
SELECT customer_id, request_id, event_id, service, units_consumed, price_per_unit,
    units_consumed * price_per_unit AS amount, occurred_at
FROM usage_records
"""


def _report(producer: int, line: Line) -> tuple[bytes, _Report]:
    """The request id, worked out as the README has it, and the report."""
    if line.event_id is None:
        parts = ["usage.v1", line.customer_id, line.service, _plain(line.units), _plain(line.price)]
    else:
        parts = ["event.v1", line.customer_id, line.event_id]
    id_ = hashlib.sha256(json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()).digest()
    return id_, _Report(producer, _facts(*msgspec.structs.astuple(line)), (line.units, line.price))


def _facts(
    customer_id: str, service: str, units: Decimal, price: Decimal, event_id: str | None, occurred_at: datetime
) -> bytes:
    """All that identifies a line, and all that it says."""
    at = occurred_at.astimezone(UTC).isoformat()
    return "|".join((customer_id, service, _plain(units), _plain(price), event_id or "", at)).encode()


def _facts_of_row(row: asyncpg.Record) -> bytes:
    return _facts(
        row["customer_id"],
        row["service"],
        row["units_consumed"],
        row["price_per_unit"],
        row["event_id"],
        row["occurred_at"],
    )


def _plain(number: Decimal) -> str:
    """The number in plain notation, without zeros at its ends."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _all_units(customer: CustomerSummary) -> Decimal:
    """The units of all services together: no sum of anything, but what the reports add up to."""
    return reduce(_EXACT.add, (group.units or Decimal(0) for group in customer.groups), Decimal(0))
