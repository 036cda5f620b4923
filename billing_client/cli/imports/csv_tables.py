"""Tables in CSV (RFC 4180), read row by row and written again."""

import csv
import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from msgspec import structs

from billing_client.cli.imports.lines import LONGEST_LINE, TOO_LONG, InputError, Rest, SourceRecord, TextLines
from billing_client.contract.csv_cells import disarm
from billing_client.contract.wire import printable

MOST_LINES = 100  # of one row; a quote that is still open then was never meant to be one
_TWO_CELLS = re.compile(r'(?:(?:"(?:[^"]|"")*"|[^",\r\n]*),){2}')
EXTRA = ("line", "reason")  # what a file of lines that are left has besides


def write_row(cells: Sequence[str]) -> str:
    """Write a row."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


class _Row(NamedTuple):
    """A row: the line where it begins, its cells, why it cannot be read, and its text as it stands in the file."""

    number: int
    cells: list[str]
    fault: str
    text: str
    rest: Rest | None = None


class Table:
    """A table: its header, then its rows. Raises InputError where it has no header."""

    def __init__(self, lines: TextLines) -> None:
        self._lines = lines
        first = self._next()
        while first is not None and not first.cells and not first.fault:
            first = self._next()
        if first is not None and first.fault:
            raise InputError(f"its first line cannot be read: {first.fault}")
        self.header = [] if first is None else first.cells
        self.heading = "" if first is None else first.text
        if twice := [name for name, count in Counter(self.header).items() if count > 1 and name]:
            raise InputError(f"its first line names {twice[0]!r} more than once")

    def rows(self) -> Iterator[_Row]:
        """The rows that hold anything."""
        while row := self._next():
            if row.cells and len(row.cells) != len(self.header):
                fault = f"it has {len(row.cells)} fields, the first line {len(self.header)}"
                yield row._replace(cells=[], fault=fault)
            elif row.cells or row.fault:
                yield row

    def _next(self) -> _Row | None:
        """The next row. One that cannot be read is only its first line; the other lines are read again as rows."""
        taken: list[str] = []
        cells, fault = [], ""
        try:
            cells = next(csv.reader(self._take(taken), strict=True))
        except StopIteration:
            return None
        except csv.Error as error:
            fault = f"it is not CSV (read up to line {self._lines.number}): {error}"
            self._lines.push_back(taken[1:])
            del taken[1:]
        number = self._lines.number + 1 - len(taken)
        if rest := self._lines.rest():
            return _Row(number, [], TOO_LONG, "".join(taken), rest)  # a part of it would look like the whole
        return _Row(number, cells, fault, "".join(taken))

    def _take(self, taken: list[str]) -> Iterator[str]:
        """The lines of a row, as many as the reader asks for: one, and one more for each quoted line break."""
        size = 0
        for line in self._lines:
            taken.append(line)
            size += len(line)
            yield line
            if len(taken) == MOST_LINES or size >= LONGEST_LINE:
                return


class CsvSource(ABC):
    """A format whose lines are rows of a table. `columns` are those that matter; the rest is not kept."""

    suffix = "csv"
    names_customers = False
    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def __init__(self, table: Table, zone: tzinfo | None, dimensions: Mapping[str, str] | None = None) -> None:
        self._zone = zone
        self._dimensions = dict(dimensions or {})
        if unnamed := [column for column in self._dimensions.values() if column not in table.header]:
            raise InputError(f"its first line does not name {', '.join(unnamed)}, of which --dimension speaks")
        if missing := [name for name in self.required if name not in table.header]:
            raise InputError(f"it is no {self.name}: its first line does not name {', '.join(missing)}")
        self._table = table
        wanted = dict.fromkeys((*self.required, *self.optional, *self._dimensions.values()))
        self._columns = [name for name in wanted if name in table.header]
        self._positions = [table.header.index(name) for name in self._columns]

    def __iter__(self) -> Iterator[SourceRecord]:
        """See UsageSource."""
        for number, row, fault, text, rest in self._table.rows():
            if fault:
                yield SourceRecord(number=number, source=text, rest=rest, fault=fault)
                continue
            cells = [row[at] for at in self._positions]
            try:
                yield self.read(number, text, dict(zip(self._columns, cells, strict=True)))
            except ValueError as error:
                yield SourceRecord(number=number, source=text, fault=str(error))

    def dimensions_of(self, cells: Mapping[str, str]) -> dict[str, str]:
        """The dimensions that stand in columns of their own; a cell that is empty holds none."""
        return {name: cells[column] for name, column in self._dimensions.items() if cells[column]}

    @abstractmethod
    def read(self, number: int, source: str, cells: dict[str, str]) -> SourceRecord:
        """What a row says. Raises ValueError."""

    def heading(self) -> str:
        """See UsageSource."""
        return "".join(self._noted(*EXTRA, SourceRecord(number=0, source=self._table.heading)))

    def left(self, line: SourceRecord, reason: str) -> Iterator[str]:
        """See UsageSource. The number and the reason are two cells before it."""
        return self._noted(str(line.number), reason, line)

    def _noted(self, number: str, reason: str, line: SourceRecord) -> Iterator[str]:
        """A row with two cells before it, which take the place of those that a file of left lines has already."""
        if self._table.header[: len(EXTRA)] == [*EXTRA] and (noted := _TWO_CELLS.match(line.source)):
            line = structs.replace(line, source=line.source[noted.end() :])
        yield f"{write_row([number, disarm(printable(reason))]).rstrip()},"
        yield from line.text()


def read_instant(column: str, text: str, zone: tzinfo | None) -> datetime:
    """A time, by the clocks of a zone where it has no offset. Raises ValueError, also where it has neither."""
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from error
    if start.tzinfo is None and zone is None:
        raise ValueError(f"{column}: {text!r} has no offset; say with --timezone which clocks it is by")
    return start if start.tzinfo else start.replace(tzinfo=zone)
