"""What a producer meant to report and what it was told, on disk before it goes on: what the check believes."""

import os
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from tests.faults.usages import Line


class Intended(Struct, array_like=True, frozen=True, tag="intended"):
    """A report, before it is sent for the first time. `key` is None where the client chooses it."""

    number: int
    line: Line
    key: str | None


class Kept(Struct, array_like=True, frozen=True, tag="kept"):
    """Reports that a durable recorder took: it owes their delivery from now on, whatever happens to the producer."""

    numbers: list[int]


class Acknowledged(Struct, array_like=True, frozen=True, tag="acknowledged"):
    """What the service said is stored."""

    number: int
    outcome: Literal["recorded", "replayed", "duplicate"]
    request_id: str
    units: Decimal
    price: Decimal
    amount: Decimal


class Doubted(Struct, array_like=True, frozen=True, tag="doubted"):
    """What is intended and neither kept nor acknowledged may have been sent: a call failed, or the producer ended."""

    why: str


class Refused(Struct, array_like=True, frozen=True, tag="refused"):
    """An answer that no fault explains."""

    number: int
    error: str


Entry = Intended | Kept | Acknowledged | Doubted | Refused
_decode = msgspec.json.Decoder(Entry).decode
_encode_lines = msgspec.json.Encoder(decimal_format="string").encode_lines


class Journal:
    """A file that only grows. A line that a crash cut off is dropped when it is opened again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        self._file.seek(0)
        self.entries = list(read_journal(path))
        self._file.truncate(sum(len(line) for line in self._file if line.endswith(b"\n")))

    def write(self, entries: Iterable[Entry]) -> None:
        """Append, and return once it would survive a crash of the machine."""
        self._file.write(_encode_lines(list(entries)))
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> Iterator[Entry]:
    """The entries in order, but for a last one that is not whole."""
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield _decode(line)


class Progress:
    """How many reports of a growing journal are settled: acknowledged, or kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""
        self.settled = 0

    def look(self) -> int:
        """Read what is new, and give the count."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
            self._position += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            self.settled += sum(map(_settles, lines))
        return self.settled


def _settles(line: bytes) -> int:
    if line.startswith(b'["acknowledged",'):
        return 1
    return len(line.split(b",")) - 1 if line.startswith(b'["kept",') else 0
