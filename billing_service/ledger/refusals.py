"""Usage that was refused: kept for a while, so that "why was this not billed?" has an answer.

Recording does not wait for it. What is refused is noted in memory; a background task writes it later, at most
PER_SECOND of it each second, so that it never costs more than a hundredth of a core. What comes when the memory is full
is counted and dropped. Nothing runs while nothing is refused.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol, get_args
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from billing_client.contract.identity import new_uuid
from billing_client.contract.query_parameters import RefusalCode
from billing_client.contract.wire import (
    MAX_ID_LENGTH,
    FieldConflict,
    FieldError,
    Id,
    ProblemDetails,
    Refusal,
    RefusalCount,
)
from billing_service.database.clock import Clock
from billing_service.database.pool import PARTING_SECONDS, Connection, Database, DatabaseUnavailableError
from billing_service.database.queries import load_queries
from billing_service.database.replication import commit_without_waiting
from billing_service.ledger.api_keys import key_id_bytes, key_name
from billing_service.ledger.changes import Changes
from billing_service.pace import USUAL, Pace
from billing_service.settings import Settings
from billing_service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_QUERIES = load_queries("refusals")
KEPT_CODES = frozenset(get_args(RefusalCode))
CAPACITY = 1_000  # that may wait to be written
PER_SECOND = 200  # written at most: 200 take 6 ms
PRUNE_SECONDS = 60.0
MAX_EXTRACT = 1_000  # characters of what was submitted
MAX_ERRORS = 10
MAX_COUNTS = 1_000
LAST = UUID(int=(1 << 128) - 1)
LONGEST_ID_JSON = 6 * MAX_ID_LENGTH + 2  # bytes: a character takes six when it is escaped
_encode = msgspec.json.Encoder().encode
_decode_errors = msgspec.json.Decoder(list[FieldError]).decode
_decode_conflicts = msgspec.json.Decoder(list[FieldConflict]).decode


class Submitter(Protocol):
    """Who submitted what was refused."""

    @property
    def key_name(self) -> str | None:
        """The API key, as `bk_` and its id; None without a key."""

    @property
    def customer_id(self) -> str | None:
        """The only customer that the key reaches; None for all."""


class _Stated(Struct, rename="camel"):
    """What refused usage says of itself, if it can be read at all. What it says is not built: it may be anything."""

    customer_id: Raw = Raw(b"null")
    event_id: Raw = Raw(b"null")


_decode_stated = msgspec.json.Decoder(_Stated).decode
_decode_id = msgspec.json.Decoder(Id).decode


class Filter(NamedTuple):
    """Which refusals to list: each member that is not None has to be equal.

    Attributes:
        start: The earliest time of refusal, inclusive.
        end: The latest, exclusive.
        code: The problem code.
        key: The API key, as `bk_` and its id.
        request_id: The request id, 32 bytes.
        event_id: The event id as stated.
        customer_id: The customer.
    """

    start: datetime
    end: datetime
    code: str | None = None
    key: str | None = None
    request_id: bytes | None = None
    event_id: str | None = None
    customer_id: str | None = None


class Refusals:
    """Notes what is refused, and writes it in the background."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        changes: Changes,
        pace: Pace = USUAL,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._changes = changes
        self._flush_seconds = pace.refusal_seconds
        self._days = settings.refusal_days
        self._most = settings.refusals_kept
        self._most_of_customer = settings.refusals_per_customer
        self._waiting: list[Refusal] = []
        self._writer: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._dropped = 0
        self._last_id = UUID(int=0)
        self._pruned_at = 0.0
        self._is_written = True

    def note(self, submitter: Submitter, problem: ProblemDetails[str], submitted: bytes | Raw) -> None:
        """Note that usage was refused. Does nothing for problems that a later try may not meet, or for duplicates.

        Args:
            submitter: Whose usage it was.
            problem: What it was answered with.
            submitted: The JSON of the usage; empty where it was not read.
        """
        if problem.code not in KEPT_CODES or self._days == 0:
            return
        if len(self._waiting) >= CAPACITY:
            self._dropped += 1  # counted later: a metric takes longer than all of this
            return
        self._waiting.append(self._refusal(submitter, problem, bytes(memoryview(submitted))))
        if self._writer is None:  # it outlives the call, so it takes over nothing of its context
            self._writer = asyncio.create_task(self._write(), context=Context())

    def _refusal(self, submitter: Submitter, problem: ProblemDetails[str], submitted: bytes) -> Refusal:
        now = self._clock.now()
        stated = _Stated()
        with suppress(ValueError, RecursionError):
            stated = _decode_stated(submitted)
        extract = submitted[: 4 * MAX_EXTRACT].decode("utf-8", "replace")[:MAX_EXTRACT]
        return Refusal(
            id=self._new_id(now),
            refused_at=now,
            code=problem.code,
            # A key that is bound to a customer can report usage of this one only, whatever it states.
            customer_id=submitter.customer_id or _id(stated.customer_id),
            submitted_by=submitter.key_name,
            request_id=problem.request_id,
            event_id=_id(stated.event_id),
            errors=problem.errors[:MAX_ERRORS] if problem.errors else None,
            conflicts=problem.conflicts,
            submitted=extract.replace("\0", "\ufffd"),  # PostgreSQL's text has no NUL
        )

    def _new_id(self, now: datetime) -> str:
        """A UUIDv7 above the last one, so that refusals of one millisecond keep their order (RFC 9562, section 6.2)."""
        new = new_uuid(_milliseconds(now))
        self._last_id = new if new > self._last_id else UUID(int=self._last_id.int + 1)
        return str(self._last_id)

    async def drain(self) -> None:
        """Write what waits, for at most PARTING_SECONDS."""
        self._stop.set()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=PARTING_SECONDS)

    async def _write(self) -> None:
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._flush_seconds):
                        await self._stop.wait()
                is_last = self._stop.is_set()
                await self._flush(CAPACITY if is_last else PER_SECOND)
                if is_last:
                    return
        finally:
            self._writer = None

    async def _flush(self, most: int) -> None:
        refusals = self._waiting[:most]
        dropped, self._dropped = self._dropped, 0
        self._metrics.refusals("dropped", dropped)
        try:
            async with self._database.connection() as connection:
                await _insert(connection, refusals)
                del self._waiting[: len(refusals)]  # more may have come meanwhile
                self._changes.note("refusals", {each.customer_id for each in refusals if each.customer_id is not None})
                await self._prune(connection, {refusal.customer_id or "" for refusal in refusals})
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            if self._is_written:  # said once, not every second
                _log.warning(
                    "refusals cannot be written; they are tried again, and dropped above %d: %s", CAPACITY, error
                )
            self._is_written = False
            return
        self._is_written = True
        self._metrics.refusals("kept", len(refusals))

    async def _prune(self, connection: Connection, customer_ids: set[str]) -> None:
        """Delete what is too much for these customers and, once in PRUNE_SECONDS, what is too much or too old."""
        excess = await connection.fetch(
            _QUERIES["find_excess_of_customers"], list(customer_ids), self._most_of_customer
        )
        if excess:
            await connection.executemany(_QUERIES["drop_excess_of_customer"], [tuple(row) for row in excess])
        now = asyncio.get_running_loop().time()
        if self._pruned_at and now < self._pruned_at + PRUNE_SECONDS:
            return
        self._pruned_at = now
        oldest = self._clock.now() - timedelta(days=self._days)
        await connection.execute(_QUERIES["drop_excess"], new_uuid(_milliseconds(oldest)))
        last: UUID | None = await connection.fetchval(_QUERIES["find_excess"], self._most)
        if last is not None:
            await connection.execute(_QUERIES["drop_excess"], last)


def _milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _id(stated: Raw) -> str | None:
    """A stated id, if it is one."""
    if memoryview(stated).nbytes > LONGEST_ID_JSON:
        return None
    try:
        return _decode_id(stated)
    except (ValueError, RecursionError):
        return None


async def _insert(connection: Connection, refusals: Sequence[Refusal]) -> None:
    rows = [
        (
            refusal.customer_id or "",
            UUID(refusal.id),
            refusal.refused_at,
            refusal.code,
            key_id_bytes(refusal.submitted_by),
            None if refusal.request_id is None else bytes.fromhex(refusal.request_id),
            refusal.event_id,
            None if refusal.errors is None else _encode(refusal.errors).decode(),
            None if refusal.conflicts is None else _encode(refusal.conflicts).decode(),
            refusal.submitted,
        )
        for refusal in refusals
    ]
    async with connection.transaction():
        await commit_without_waiting(connection)
        await connection.execute(_QUERIES["keep_refusals"], *map(list, zip(*rows, strict=True)))


async def list_refusals(connection: Connection, wanted: Filter, before: UUID, limit: int) -> list[Refusal]:
    """At most `limit` refusals, latest first, whose id is before this one; LAST stands before all."""
    start, end, code, key, request_id, event_id, customer_id = wanted
    arguments = (before, start, end, code, key_id_bytes(key), request_id, event_id, limit)
    if customer_id is None:
        rows = await connection.fetch(_QUERIES["list_refusals"], *arguments)
    else:
        rows = await connection.fetch(_QUERIES["list_refusals_of_customer"], *arguments, customer_id)
    return [_refusal_of(row) for row in rows]


def _refusal_of(row: asyncpg.Record) -> Refusal:
    return Refusal(
        id=str(row["refusal_id"]),
        refused_at=row["refused_at"],
        code=row["code"],
        customer_id=row["customer_id"] or None,
        submitted_by=key_name(row["submitted_by"]),
        request_id=None if row["request_id"] is None else row["request_id"].hex(),
        event_id=row["event_id"],
        errors=None if row["errors"] is None else _decode_errors(row["errors"]),
        conflicts=None if row["conflicts"] is None else _decode_conflicts(row["conflicts"]),
        submitted=row["submitted"],
    )


async def count_refusals(
    connection: Connection, start: datetime, end: datetime, customer_id: str | None = None
) -> list[RefusalCount]:
    """How many refusals there are from `start` to `end` by API key and code, the most first.

    Args:
        connection: A connection to the database.
        start: The earliest time of refusal, inclusive.
        end: The latest, exclusive.
        customer_id: Only this customer's; None for all.
    """
    rows = await connection.fetch(_QUERIES["count_refusals"], start, end, customer_id, MAX_COUNTS)
    return [
        RefusalCount(
            submitted_by=key_name(row["submitted_by"]),
            code=row["code"],
            refusals=row["refusals"],
            last_refused_at=row["last_refused_at"],
        )
        for row in rows
    ]
