"""A spool as its operator sees it: what is pending, what the service refused, and how to send that again."""

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
    """What a spool holds.

    Attributes:
        pending: How many records wait to be delivered.
        attempted: How many of the pending records were sent before.
        dead: How many records the service refused (dead letters).
        bytes: The size of the JSON of all records, dead letters included.
        oldest: When the first pending record was recorded; None if none is pending.
    """

    pending: int
    attempted: int
    dead: int
    bytes: int
    oldest: datetime | None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A use that the service refused.

    Attributes:
        usage: The use.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent, and would be sent again.
        recorded_at: When `record()` was called.
        dead_at: When the service refused it.
        attempts: How often it was sent.
        problem: Why it was refused (RFC 9457).
    """

    usage: Usage
    request_id: str
    idempotency_key: str
    recorded_at: datetime
    dead_at: datetime
    attempts: int
    problem: ProblemDetails[Decimal]


class SpoolContents:
    """What is in a spool's file. Every method raises SpoolError."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file

    def status(self) -> SpoolStatus:
        """Count what it holds."""
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
        """Put dead letters back in line, to be sent again once the cause of the refusal is fixed.

        They go to the end of the line and keep their Idempotency-Key. The next recorder sends them.

        Args:
            request_ids: Which dead letters. None means all.

        Returns:
            How many were put back.
        """
        chosen = {"request_ids": _chosen(request_ids)}
        with self._file.transaction() as connection:
            connection.execute(SQL["redrive"], chosen)
            return connection.execute(SQL["discard"], chosen).rowcount

    def discard(self, request_ids: Collection[str] | None = None) -> int:
        """Delete dead letters for good.

        Args:
            request_ids: Which dead letters. None means all.

        Returns:
            How many were deleted.
        """
        with self._file.transaction() as connection:
            return connection.execute(SQL["discard"], {"request_ids": _chosen(request_ids)}).rowcount


class Spool(SpoolContents):
    """The spool of a recorder that is not running; with `read_only`, also of one that is.

    A context manager, for use in one thread.

    Args:
        path: The file that the recorder was given.
        read_only: Open it for `status` and `dead_letters` only. Every other method then raises SpoolError.

    Raises:
        SpoolInUseError: A recorder is running on it, and `read_only` is False.
        SpoolCorruptError: The file is damaged.
        SpoolError: The file is missing or is not a spool. Every method can raise SpoolError too.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        super().__init__(SpoolFile(Path(path), create=False, read_only=read_only))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def decode_usage(body: bytes) -> Usage:
    """The use that the JSON of a record holds."""
    return Usage(**msgspec.structs.asdict(_USAGE.decode(body)))


def _chosen(request_ids: Collection[str] | None) -> str | None:
    return None if request_ids is None else msgspec.json.encode(list(request_ids)).decode()


def _dead_letter(row: Any) -> DeadLetter:
    request_id, idempotency_key, recorded_at, attempts, body, dead_at, problem = row
    return DeadLetter(
        usage=decode_usage(body),
        request_id=request_id,
        idempotency_key=idempotency_key,
        recorded_at=datetime.fromisoformat(recorded_at),
        dead_at=datetime.fromisoformat(dead_at),
        attempts=attempts,
        problem=_PROBLEM.decode(problem),
    )
