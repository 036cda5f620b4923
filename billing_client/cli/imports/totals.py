"""What became of the lines of an import, and the money in them."""

import os
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from billing_client import CustomerNotFoundError, EventIdConflictError, UsageOutcome
from billing_client.cli.imports.lines import SourceRecord, UsageSource
from billing_client.contract.decimals import EXACT
from billing_client.contract.named_queries import read_queries

_SQL = read_queries(Path(__file__).parent / "seen.sql")
REMEMBERED_CUSTOMERS = 100_000


class Seen:
    """The request ids met so far, however many: on disk, in a file that goes with the process."""

    def __init__(self) -> None:
        self._disk = sqlite3.connect("", isolation_level=None)
        self._disk.execute(_SQL["keep_no_journal"])
        self._disk.execute(_SQL["create_seen"])

    def add(self, request_id: str) -> bool:
        """Take note of one; whether it was new."""
        return self._disk.execute(_SQL["add_seen"], (bytes.fromhex(request_id),)).rowcount == 1

    def close(self) -> None:
        self._disk.close()


class LeftoverFile:
    """A file of lines that are left, made when there is one; an earlier one goes when in the end there is none."""

    def __init__(self, path: Path, format_: UsageSource) -> None:
        self.path = path
        self.count = 0
        self._format = format_
        self._file: TextIO | None = None

    def add(self, line: SourceRecord, reason: str) -> None:
        if self._file is None:
            self._file = _open_new(self.path)
            self._file.write(self._format.heading())
        self._file.writelines(self._format.left(line, reason))
        self.count += 1

    def close(self, whole: bool) -> None:
        """Close it; `whole` where all lines have been seen."""
        if self._file is not None:
            self._file.close()
        elif whole:
            self.path.unlink(missing_ok=True)


def _open_new(path: Path) -> TextIO:
    """Not through a link, which somebody else may have put into a shared folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "w", encoding="utf-8", errors="surrogateescape", newline="")


class Counts(Struct):
    """How many lines: `read` is the sum of the five after it.

    `repeated` are those of `duplicate` that say what an earlier line says, `lost` those of them without an event id,
    which may be distinct usage; `voided` were voided, as an export says of them.
    """

    read: int = 0
    recorded: int = 0
    replayed: int = 0
    duplicate: int = 0
    missing: int = 0
    rejected: int = 0
    repeated: int = 0
    lost: int = 0
    voided: int = 0


class ImportTotals:
    """Counts lines and their money: as the file has it, and, each record once, as the service has it.

    In a dry run what could be recorded is `missing`, or `recorded` where no file takes what is missing; a line of an
    unknown customer too, where the import would make the customer.
    """

    def __init__(self, rejected: LeftoverFile, missing: LeftoverFile | None, makes_customers: bool) -> None:
        self.counts = Counts()
        self.as_read = self.as_stored = Decimal(0)
        self.missing_customers: set[str] = set()
        self.rejected, self.missing = rejected, missing
        self._makes_customers = makes_customers
        self._seen = Seen()

    def add(self, line: SourceRecord, outcome: UsageOutcome) -> None:
        """Count a line that was sent."""
        usage, error = outcome.usage, outcome.error
        is_unknown = isinstance(error, CustomerNotFoundError)
        if is_unknown and len(self.missing_customers) < REMEMBERED_CUSTOMERS:
            self.missing_customers.add(usage.customer_id)
        is_recordable = outcome.outcome == "recordable" or (is_unknown and self._makes_customers)
        if outcome.outcome in ("conflict", "rejected") and not is_recordable:
            self.reject(line, _reason(line, outcome))
            return
        self.counts.read += 1
        amount = EXACT.multiply(Decimal(usage.units_consumed), Decimal(usage.price_per_unit))
        self.as_read = EXACT.add(self.as_read, amount)
        if outcome.request_id is None or not self._seen.add(outcome.request_id):
            self.counts.duplicate += 1
            self.counts.repeated += 1
            self.counts.lost += usage.event_id is None
            return
        self.as_stored = EXACT.add(self.as_stored, amount if outcome.record is None else outcome.record.amount)
        if is_recordable and self.missing is not None:
            self.counts.missing += 1
            self.missing.add(line, "it is not on the server")
        elif is_recordable or outcome.outcome == "recorded":
            self.counts.recorded += 1
        elif outcome.outcome == "replayed":
            self.counts.replayed += 1
        else:
            self.counts.duplicate += 1

    def reject(self, line: SourceRecord, reason: str) -> None:
        """Count a line that is not recorded."""
        self.counts.read += 1
        self.counts.rejected += 1
        self.rejected.add(line, reason)

    def close(self, whole: bool) -> None:
        """Close the files; `whole` where all lines have been seen."""
        self._seen.close()
        self.rejected.close(whole)
        if self.missing is not None:
            self.missing.close(whole)


def _reason(line: SourceRecord, outcome: UsageOutcome) -> str:
    reason = line.fault or (outcome.error.detail if outcome.error else "")
    if isinstance(outcome.error, EventIdConflictError):
        conflicts = outcome.error.conflicts
        reason += "".join(f" {c.field}: recorded {c.recorded}, submitted {c.submitted}." for c in conflicts)
    return reason
