"""The lines of what is imported, whatever their format."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TextIO

from msgspec import Struct

from billing_client import Usage, ValidationError
from billing_client._encoding import encode_usage

LONGEST_LINE = 1 << 20  # characters; what is longer is cut there, and refused


class InputError(Exception):
    """The input is not what it should be."""


class SourceRecord(Struct, frozen=True, kw_only=True):
    """One use: the line of the file where it begins, how it stood there (a format's own affair), and what it says.

    `usage` is None where it cannot be told; then `fault` says why. What else may be wrong with its values, the client
    says. `is_voided` is what an export says of the record.
    """

    number: int
    source: Any
    usage: Usage | None = None
    fault: str = ""
    customer_name: str | None = None
    is_voided: bool = False


class UsageSource(Protocol):
    """A file of usage: its lines, and how lines are written that are left over, to be imported in their turn."""

    suffix: str
    names_customers: bool

    def __iter__(self) -> Iterator[SourceRecord]:
        """The lines, one at a time. Raises InputError where the file is not of this format at all."""

    def heading(self) -> str:
        """What a file of lines that are left begins with."""

    def left(self, line: SourceRecord, reason: str) -> str:
        """A line that is left, with its number and why."""


class TextLines:
    """The lines of a file, in bounded memory; `number` is that of the last one given, from 1."""

    def __init__(self, file: TextIO) -> None:
        self.number = 0
        self._file = file
        self._next: deque[str] = deque()
        self._cut: set[int] = set()

    def first(self) -> str:
        """The first line that holds anything, "" where there is none; it is given again."""
        first = next((line for line in self if line.strip()), "")
        if first:
            self.push_back([first])
        return first

    def push_back(self, lines: Sequence[str]) -> None:
        """Take back the last lines that were given. They are given again."""
        self._next.extendleft(reversed(lines))
        self.number -= len(lines)

    def cut_since(self, number: int) -> bool:
        """Whether a line from this number to the last one given was too long."""
        return any(number <= cut <= self.number for cut in self._cut)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next:
            self.number += 1
            return self._next.popleft()
        line = rest = self._file.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        while len(rest) == LONGEST_LINE and not rest.endswith(("\n", "\r")):
            self._cut.add(self.number)
            rest = self._file.readline(LONGEST_LINE)
        return line


TOO_LONG = f"it is longer than {LONGEST_LINE} characters"


def checked(line: SourceRecord, request_id: str | None) -> SourceRecord:
    """The line, at fault where the request id that it gives, if any, is not that of its data."""
    if not request_id or line.usage is None:
        return line
    try:
        computed = encode_usage(line.usage).request_id
    except ValidationError:
        return line  # the client will say so
    if computed == request_id:
        return line
    fault = "its data is not what it was exported with: the requestId is that of other data"
    return SourceRecord(number=line.number, source=line.source, fault=fault)
