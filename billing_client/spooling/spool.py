"""A spool as its operator sees it: what is pending, what the service refused, and how to send that again."""

import os
import sqlite3
from collections.abc import Collection
from datetime import UTC, datetime
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
_UNKNOWN_TIME = datetime.min.replace(tzinfo=UTC)
_PROBLEM = msgspec.json.Decoder(ProblemDetails[Decimal])


class SpoolStatus(Struct, frozen=True, kw_only=True):
    """What a spool holds.

    Attributes:
        pending: How many records wait to be delivered.
        attempted: How many of the pending records were sent before.
        dead: How many records the service refused (dead letters).
        delivered: How many delivered records are kept (`keep_delivered`).
        bytes: The size of the JSON of all records, dead letters included, those that were delivered not.
        oldest: When the first pending record was recorded; None if none is pending.
    """

    pending: int
    attempted: int
    dead: int
    delivered: int
    bytes: int
    oldest: datetime | None


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A record that the service refused, or a row of the spool that is no record.

    Attributes:
        usage: The use; None if `body` is not the JSON of one.
        body: The JSON of the record, as it was sent.
        request_id: Its request id.
        idempotency_key: The Idempotency-Key under which it was sent, and would be sent again.
        recorded_at: When `record()` was called. The first instant of year 1 if the file does not say.
        dead_at: When the service refused it. The first instant of year 1 if the file does not say.
        attempts: How often it was sent.
        problem: Why it was refused (RFC 9457).
    """

    usage: Usage | None
    body: bytes
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
            delivered=self._count_delivered(),
            bytes=size + dead_size,
            oldest=read_time(oldest),
        )

    def _count_delivered(self) -> int:
        if self._file.version == 1:
            return 0
        ((records, _, _),) = self._file.rows("count_delivered")
        return int(records)

    def is_empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return not any(self._file.rows("any_row"))

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

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(SQL["redrive"], chosen)
            return connection.execute(SQL["discard"], chosen).rowcount

        return self._file.write(work)

    def discard(self, request_ids: Collection[str] | None = None) -> int:
        """Delete dead letters for good.

        Args:
            request_ids: Which dead letters. None means all.

        Returns:
            How many were deleted.
        """
        chosen = {"request_ids": _chosen(request_ids)}
        return self._file.write(lambda connection: connection.execute(SQL["discard"], chosen).rowcount)

    def resend(self, since: datetime) -> int:
        """Put delivered records back in line, to be sent again to a service that lost what it had acknowledged.

        They keep their Idempotency-Key, so what the service did not lose is a retry to it, and counts once.

        Args:
            since: Those that were delivered then or later, by the clock of the producer; with a time zone.

        Returns:
            How many were put back.
        """
        if since.tzinfo is None:
            raise ValueError("since needs a time zone")
        chosen = {"since": as_text(since)}

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(SQL["resend"], chosen)
            return connection.execute(SQL["forget_resent"], chosen).rowcount

        return self._file.write(work)


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


def decode_usage(body: bytes) -> Usage | None:
    """The use that the JSON of a record holds; None if it is not that of a use, as in a file that was tampered with."""
    try:
        return Usage(**msgspec.structs.asdict(_USAGE.decode(body)))
    except (ValueError, RecursionError):
        return None


def _chosen(request_ids: Collection[str] | None) -> str | None:
    return None if request_ids is None else msgspec.json.encode(list(request_ids)).decode()


def _dead_letter(row: Any) -> DeadLetter:
    """A row as a dead letter. SQLite lets any column of a tampered file hold a value of any type."""
    request_id, idempotency_key, recorded_at, attempts, body, dead_at, problem = row
    data = body if isinstance(body, bytes) else str(body).encode()
    return DeadLetter(
        usage=decode_usage(data),
        body=data,
        request_id=str(request_id),
        idempotency_key=str(idempotency_key),
        recorded_at=read_time(recorded_at) or _UNKNOWN_TIME,
        dead_at=read_time(dead_at) or _UNKNOWN_TIME,
        attempts=attempts if isinstance(attempts, int) else 0,
        problem=_read_problem(problem),
    )


def as_text(time: datetime) -> str:
    """A time as a spool holds it: text that sorts as the times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def read_time(text: object) -> datetime | None:
    """A time as a spool holds it; None if it is none, as in a file that was tampered with."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _read_problem(data: object) -> ProblemDetails[Decimal]:
    try:
        return _PROBLEM.decode(data if isinstance(data, bytes) else str(data))
    except (ValueError, RecursionError):
        return damaged_row("its problem cannot be read")


def damaged_row(fault: str) -> ProblemDetails[Decimal]:
    """The problem of a row of the spool that is no record."""
    detail = f"The row in the spool is damaged: {fault}. Discard it, or record the usage again."
    return ProblemDetails(type="about:blank", title="Damaged row", status=400, detail=detail, code="validation_error")
