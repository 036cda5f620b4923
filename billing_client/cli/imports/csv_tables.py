"""Tables in CSV (RFC 4180), read row by row and written again."""

import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from billing_client.cli.imports.lines import TOO_LONG, InputError, SourceRecord, TextLines

EXTRA = ("line", "reason")  # what a file of lines that are left has besides


def write_row(cells: Sequence[str]) -> str:
    """Write a row."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


class Table:
    """A table: its header, then its rows. Raises InputError where it has no header."""

    def __init__(self, lines: TextLines) -> None:
        self._lines = lines
        self._reader = csv.reader(lines, strict=True)
        self.header, fault = [], ""
        try:
            self.header = next((row for row in self._reader if row), [])
        except csv.Error as error:
            fault = f"it is not CSV: {error}"
        if lines.cut_since(1):
            fault = TOO_LONG
        if fault:
            raise InputError(f"its first line cannot be read: {fault}")
        if twice := [name for name, count in Counter(self.header).items() if count > 1 and name]:
            raise InputError(f"its first line names {twice[0]!r} more than once")

    def rows(self) -> Iterator[tuple[int, list[str], str]]:
        """The number of the line where each row begins, its cells, and why it cannot be read."""
        while True:
            number = self._lines.number + 1  # a quoted line break makes a row span lines
            row, fault = [], ""
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"it is not CSV (read up to line {self._lines.number}): {error}"
            if row and len(row) != len(self.header):
                fault = f"it has {len(row)} fields, the first line {len(self.header)}"
            if self._lines.cut_since(number):
                fault = TOO_LONG
            if row or fault:
                yield number, [] if fault else row, fault


class CsvSource(ABC):
    """A format whose lines are rows of a table. `columns` are those that matter; the rest is not kept."""

    suffix = "csv"
    names_customers = False
    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def __init__(self, table: Table) -> None:
        if missing := [name for name in self.required if name not in table.header]:
            raise InputError(f"it is no {self.name}: its first line does not name {', '.join(missing)}")
        self._table = table
        self._columns = [name for name in (*self.required, *self.optional) if name in table.header]
        self._positions = [table.header.index(name) for name in self._columns]

    def __iter__(self) -> Iterator[SourceRecord]:
        """See UsageSource."""
        for number, row, fault in self._table.rows():
            cells = [row[at] for at in self._positions] if row else []
            if fault:
                yield SourceRecord(number=number, source=cells, fault=fault)
                continue
            try:
                yield self.read(number, cells, dict(zip(self._columns, cells, strict=True)))
            except ValueError as error:
                yield SourceRecord(number=number, source=cells, fault=str(error))

    @abstractmethod
    def read(self, number: int, source: list[str], cells: dict[str, str]) -> SourceRecord:
        """What a row says. Raises ValueError."""

    def heading(self) -> str:
        """See UsageSource."""
        return write_row([*EXTRA, *self._columns])

    def left(self, line: SourceRecord, reason: str) -> str:
        """See UsageSource."""
        return write_row([str(line.number), reason, *(line.source or [""] * len(self._columns))])


def read_instant(column: str, text: str) -> datetime:
    """A time, in UTC where it has no offset. Raises ValueError."""
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from error
    return start if start.tzinfo else start.replace(tzinfo=UTC)
