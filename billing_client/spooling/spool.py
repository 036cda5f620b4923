"""A spool as its operator sees it: what waits in it, what the service refused, and putting that back in line."""

import os
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct

from billing_client._records import Usage
from billing_client.contract.wire import NewUsage, ProblemDetails
from billing_client.spooling.spool_file import SQL, SpoolFile

_USAGE = msgspec.json.Decoder(NewUsage[Decimal])
_PROBLEM = msgspec.json.Decoder(ProblemDetails[Decimal])


class SpoolStatus(Struct, frozen=True, kw_only=True):
    """What a spool holds. `attempted` of the `pending` records were sent before; `oldest` is when the first of the
    pending was recorded; `bytes` are those of the JSON of all records, the `dead` too."""

    pending: int
    attempted: int
    dead: int
    bytes: int
    oldest: datetime | None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A use that the service refused, and its problem (RFC 9457)."""

    usage: Usage
    request_id: str
    idempotency_key: str
    recorded_at: datetime
    dead_at: datetime
    attempts: int
    problem: ProblemDetails[Decimal]


class Spool:
    """The spool of a recorder that does not run; with `read_only`, also of one that does.

    A context manager, for one thread. Raises SpoolError: SpoolInUseError where a recorder holds it.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._file = SpoolFile(Path(path), create=False, read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def status(self) -> SpoolStatus:
        """What it holds."""
        ((pending, attempted, size, oldest),) = self._file.rows("count_pending")
        ((dead, dead_size),) = self._file.rows("count_dead")
        return SpoolStatus(
            pending=pending,
            attempted=attempted,
            dead=dead,
            bytes=size + dead_size,
            oldest=None if oldest is None else datetime.fromisoformat(oldest),
        )

    def dead_letters(self) -> list[DeadLetter]:
        """What the service refused, in the order it was recorded."""
        return [_dead_letter(row) for row in self._file.rows("all_dead")]

    def redrive(self, request_ids: Collection[str] | None = None) -> int:
        """Put dead letters, all or those with these request ids, at the end of the line again; says how many.

        They keep their Idempotency-Key. For when what made the service refuse them is mended.
        """
        chosen = {"request_ids": _chosen(request_ids)}
        with self._file.transaction() as connection:
            connection.execute(SQL["revive"], chosen)
            return connection.execute(SQL["discard"], chosen).rowcount

    def discard(self, request_ids: Collection[str] | None = None) -> int:
        """Delete dead letters, all or those with these request ids, for good; says how many."""
        with self._file.transaction() as connection:
            return connection.execute(SQL["discard"], {"request_ids": _chosen(request_ids)}).rowcount


def usage_of(body: bytes) -> Usage:
    """The use that the JSON of a record holds."""
    return Usage(**msgspec.structs.asdict(_USAGE.decode(body)))


def _chosen(request_ids: Collection[str] | None) -> str | None:
    return None if request_ids is None else msgspec.json.encode(list(request_ids)).decode()


def _dead_letter(row: Any) -> DeadLetter:
    request_id, idempotency_key, recorded_at, attempts, body, dead_at, problem = row
    return DeadLetter(
        usage=usage_of(body),
        request_id=request_id,
        idempotency_key=idempotency_key,
        recorded_at=datetime.fromisoformat(recorded_at),
        dead_at=datetime.fromisoformat(dead_at),
        attempts=attempts,
        problem=_PROBLEM.decode(problem),
    )
