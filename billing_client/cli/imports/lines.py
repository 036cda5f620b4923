"""The lines of what is imported, whatever their format."""

import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, Protocol, TextIO

from msgspec import Struct

from billing_client import Usage, ValidationError
from billing_client._encoding import encode_usage

LONGEST_LINE = 1 << 20  # characters; what is longer is refused, and all behind them is kept on disk


class InputError(Exception):
    """The input is not what it should be."""


class Rest(Struct, frozen=True):
    """What is behind the first LONGEST_LINE characters of a line: `size` bytes of a file, from `start`."""

    file: IO[bytes]
    start: int
    size: int

    def __iter__(self) -> Iterator[str]:
        """The text in pieces, which give the same bytes when they are encoded again."""
        self.file.seek(self.start)
        left = self.size
        while left and (piece := self.file.read(min(left, LONGEST_LINE))):
            left -= len(piece)
            yield piece.decode("utf-8", "surrogateescape")


class SourceRecord(Struct, frozen=True, kw_only=True):
    """One use: the line of the file where it begins, its text as it stands there, and what it says.

    `rest` is the rest of a text that is too long to be usage. `usage` is None where it cannot be told; then `fault`
    says why. What else may be wrong with its values, the client says. `is_voided` is what an export says of the record.
    """

    number: int
    source: str
    rest: Rest | None = None
    usage: Usage | None = None
    fault: str = ""
    customer_name: str | None = None
    is_voided: bool = False

    def text(self) -> Iterator[str]:
        """The text as it stands in the file, in pieces, with a line end behind it."""
        piece = self.source
        yield piece
        for piece in self.rest or ():
            yield piece
        if not piece.endswith(("\n", "\r")):
            yield "\n"


class UsageSource(Protocol):
    """A file of usage: its lines, and how lines are written that are left over, to be imported in their turn."""

    suffix: str
    names_customers: bool

    def __iter__(self) -> Iterator[SourceRecord]:
        """The lines, one at a time. Raises InputError where the file is not of this format at all."""

    def heading(self) -> str:
        """What a file of lines that are left begins with."""

    def left(self, line: SourceRecord, reason: str) -> Iterator[str]:
        """A line that is left, byte for byte, with its number and why, in pieces."""


class TextLines:
    """The lines of a file that was opened as UTF-8 with surrogate escapes, in bounded memory.

    Attributes:
        number: That of the last line that was given, from 1.
    """

    def __init__(self, file: TextIO) -> None:
        self.number = 0
        self._file = file
        self._next: deque[str] = deque()
        self._rests: dict[int, Rest] = {}
        self._disk: IO[bytes] | None = None

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

    def rest(self) -> Rest | None:
        """The rest of the last line that was given; None where it was not too long."""
        return self._rests.get(self.number)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next:
            self.number += 1
            return self._next.popleft()
        line = self._file.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if _is_cut(line):
            self._rests[self.number] = self._keep_rest()
        return line

    def _keep_rest(self) -> Rest:
        """Move the rest of a line into a file that is deleted with the process."""
        if self._disk is None:
            self._disk = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        start = self._disk.seek(0, os.SEEK_END)
        piece, size = "x" * LONGEST_LINE, 0
        while _is_cut(piece):
            piece = self._file.readline(LONGEST_LINE)
            size += self._disk.write(piece.encode("utf-8", "surrogateescape"))
        return Rest(self._disk, start, size)

    def close(self) -> None:
        """Delete what was kept of lines that are too long."""
        if self._disk is not None:
            self._disk.close()


def _is_cut(line: str) -> bool:
    return len(line) == LONGEST_LINE and not line.endswith(("\n", "\r"))


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
