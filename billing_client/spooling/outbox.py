"""The spool of a running recorder: new records go in at one end, batches to deliver come out at the other."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial, wraps
from math import inf
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client._batches import BATCH_BYTES
from billing_client._encoding import EncodedUsage, is_key
from billing_client._errors import SpoolDiskFullError
from billing_client.spooling.capacity import KeptBounds
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.spool import DeadLetter, SpoolContents, SpoolStatus, as_text, damaged_row, read_time
from billing_client.spooling.spool_file import SQL, SpoolFile

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Struct, frozen=True):
    """A record that waits to be delivered. `attempts` includes the one that it was taken for."""

    seq: int
    idempotency_key: str
    attempts: int
    usage: EncodedUsage
    recorded_at: object


class Damaged(NamedTuple):
    """A row that is no record, as far as it can be read, and what is wrong with it."""

    seq: int
    record: Pending
    fault: str


class _Kept(NamedTuple):
    """How many delivered records are kept, their bytes, and when the oldest was delivered."""

    records: int
    bytes: int
    oldest: str | None


class Taken(NamedTuple):
    """Records for one batch, and the rows before them that were no records and are dead letters now."""

    batch: list[Pending]
    damaged: list[Damaged]


def _fault_of_row(row: Sequence[Any]) -> str:
    """What is wrong with a row; "" if nothing is. SQLite lets any column hold a value of any type."""
    _, key, request_id, attempts, body, _, followers = row
    for name, value, expected in (
        ("idempotency_key", key, str),
        ("request_id", request_id, str),
        ("attempts", attempts, int),
        ("body", body, bytes),
        ("followers", followers, int),
    ):
        if not isinstance(value, expected):
            return f"{name} is of type {type(value).__name__}"
    return "" if is_key(key) else "idempotency_key is no value of a header"


def _damaged(row: Sequence[Any], fault: str) -> Damaged:
    """A row that is no record, with each of its values as the text or number that it should be."""
    seq, key, request_id, attempts, body, recorded_at, _ = row
    usage = EncodedUsage(body if isinstance(body, bytes) else str(body).encode(), str(request_id))
    record = Pending(seq, str(key), attempts if isinstance(attempts, int) else 0, usage, recorded_at)
    return Damaged(seq, record, fault)


class _BatchKeys:
    """Gives records their Idempotency-Key: records in a row share one, so that one batch can carry them.

    No two records with the same request id share a key. So a key and a request id together name one call of `record()`
    for ever, and the service can tell a retry of that call (`replayed`) from another call (`duplicate`).
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._begin()

    def _begin(self) -> None:
        self._key = str(uuid4())
        self._request_ids: set[str] = set()
        self._bytes = 0

    def keys_for(self, usages: Sequence[EncodedUsage]) -> list[str]:
        """The keys of usage that belongs together: one for all, unless some of it is the same usage."""
        if not self._has_room_for(usages):
            self._begin()
        return [self._key_for(usage) for usage in usages]

    def _has_room_for(self, usages: Sequence[EncodedUsage]) -> bool:
        is_full = len(self._request_ids) + len(usages) > self._batch_size
        is_large = self._bytes + sum(len(usage.body) for usage in usages) > BATCH_BYTES
        return not (is_full or is_large or any(usage.request_id in self._request_ids for usage in usages))

    def _key_for(self, usage: EncodedUsage) -> str:
        """The current key, or a new one if the batch of the current key holds the same usage."""
        if usage.request_id in self._request_ids:
            self._begin()
        self._request_ids.add(usage.request_id)
        self._bytes += len(usage.body)
        return self._key


def _in_thread(
    method: Callable[Concatenate["Outbox", P], T],
) -> Callable[Concatenate["Outbox", P], Coroutine[Any, Any, T]]:
    """Make a method of Outbox a coroutine that runs in the outbox's thread."""

    @wraps(method)
    async def run(outbox: "Outbox", /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(method, outbox, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(outbox.executor, call)

    return run


class Outbox:
    """The spool of a running recorder, which `open_file` opens.

    One thread does all work on the file, one call after the other, so no fsync blocks the event loop. A call that is
    cancelled is carried out all the same. Every method raises SpoolError.
    """

    file: SpoolFile

    def __init__(self, open_file: Callable[[], SpoolFile], options: RecorderOptions) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="billing-spool")
        self._open_file = open_file
        self._keys = _BatchKeys(options.batch_size)
        keep = options.keep_delivered
        self._bounds = None if keep is None else KeptBounds(keep, options.max_records, options.max_bytes)
        self._kept = _Kept(0, 0, None)

    async def open(self) -> SpoolStatus:
        """Open the file, and say what it holds."""
        try:
            return await self._open()
        except BaseException:
            self.executor.submit(self._close_file)
            self.executor.shutdown(wait=False)
            raise

    @_in_thread
    def _open(self) -> SpoolStatus:
        self.file = self._open_file()
        with suppress(SpoolDiskFullError):  # what it holds can be delivered all the same
            self.file.require_room()
        self._contents = SpoolContents(self.file)
        if self._bounds is not None:
            ((records, size, oldest),) = self.file.rows("count_delivered")
            self._kept = _Kept(records, size, oldest)
        return self._contents.status()

    async def close(self, remove_if_empty: bool = False) -> None:
        """Close the file, after all calls that were made before; remove it if it is empty and that is wanted."""
        try:
            await asyncio.shield(self._close(remove_if_empty))
        finally:
            self.executor.shutdown(wait=False)

    @_in_thread
    def _close(self, remove_if_empty: bool) -> None:
        if self._bounds is not None:
            with suppress(SpoolDiskFullError):
                self.file.write(self._forget_surplus)
        if remove_if_empty and self._contents.is_empty():
            self.file.remove()
        else:
            self._close_file()

    def _close_file(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def append(self, calls: Iterable[tuple[Sequence[EncodedUsage], str | None]]) -> asyncio.Future[None]:
        """Add the records of some calls, all or none; they are on disk when this is done.

        The records of one call stay together. Those of a call without an Idempotency-Key get one.

        Raises SpoolDiskFullError also while there is room, but not so much that they could be removed again. It is no
        task, so the end of `asyncio.run` does not cancel it.
        """
        return asyncio.get_running_loop().run_in_executor(self.executor, self._append, calls)

    def _append(self, calls: Iterable[tuple[Sequence[EncodedUsage], str | None]]) -> None:
        self.file.require_room()
        self.file.require_place()
        recorded_at = _now()
        rows = [
            {
                "idempotency_key": key,
                "request_id": usage.request_id,
                "recorded_at": recorded_at,
                "followers": len(usages) - number,
                "body": usage.body,
            }
            for usages, given in calls
            for number, (usage, key) in enumerate(
                zip(usages, [given] * len(usages) if given else self._keys.keys_for(usages), strict=True), 1
            )
        ]
        with self.file.transaction() as connection:
            connection.executemany(SQL["append"], rows)

    @_in_thread
    def take(self, records: int, after: int = 0, whole: bool = True) -> Taken:
        """The first records in line after a `seq`, at most so many, for one batch. This attempt is counted first.

        If `whole`, the records of one call are not parted, even if they are more. A row that is no record, as in a file
        that was tampered with, becomes a dead letter.
        """
        batch: dict[str, Pending] = {}
        damaged: list[Damaged] = []
        for row in self._next_rows(records, after, whole):
            seq, key, request_id, attempts, body, recorded_at, _ = row
            if fault := _fault_of_row(row):
                damaged.append(_damaged(row, fault))
                continue
            if request_id in batch:  # the same usage twice: the second goes into the next batch
                break
            batch[request_id] = Pending(seq, key, attempts + 1, EncodedUsage(body, request_id), recorded_at)
        self._bury(damaged)
        taken = list(batch.values())
        if taken:
            self._count_attempt(taken)
        return Taken(taken, damaged)

    def _next_rows(self, records: int, after: int, whole: bool) -> list[Any]:
        rows = self.file.rows("next_batch", records=records, after=after)
        cut = rows[-1][-1] if rows and whole else 0
        if not isinstance(cut, int) or cut < 1:
            return rows
        first = len(rows) - 1  # the first record of the call that would be parted
        while first and rows[first - 1][-1] == rows[first][-1] + 1:
            first -= 1
        return rows[:first] if first else self.file.rows("next_batch", records=records + cut, after=after)

    def _count_attempt(self, batch: Sequence[Pending]) -> None:
        """Count it on disk. If the disk is full, the record is sent uncounted: that is how there will be room."""
        with suppress(SpoolDiskFullError), self.file.transaction() as connection:
            connection.execute(SQL["count_attempt"], {"first": batch[0].seq, "last": batch[-1].seq})

    @_in_thread
    def uncount_attempt(self, batch: Sequence[Pending]) -> None:
        """Say that a batch that was taken was not sent."""
        with suppress(SpoolDiskFullError), self.file.transaction() as connection:
            connection.execute(SQL["uncount_attempt"], {"first": batch[0].seq, "last": batch[-1].seq})

    def _bury(self, damaged: Sequence[Damaged]) -> None:
        if not damaged:
            return
        dead_at = _now()
        rows = [
            {"seq": each.seq, "dead_at": dead_at, "problem": msgspec.json.encode(damaged_row(each.fault))}
            for each in damaged
        ]
        self.file.write(partial(_bury, rows))

    @_in_thread
    def settle(self, done: Sequence[Pending], dead: Sequence[tuple[Pending, bytes]]) -> None:
        """Remove what is done, and make what was refused a dead letter, with the JSON of its problem.

        What is done is kept in another table if that is wanted.
        """
        now = _now()
        dead_rows = [{"seq": record.seq, "dead_at": now, "problem": problem} for record, problem in dead]
        done_ranges = [{"first": first, "last": last, "delivered_at": now} for first, last in _ranges(done)]

        def work(connection: sqlite3.Connection) -> _Kept:
            kept = self._kept
            if self._bounds is not None:
                connection.executemany(SQL["keep_delivered"], done_ranges)
                size = sum(len(record.usage.body) for record in done)
                kept = _Kept(kept.records + len(done), kept.bytes + size, kept.oldest or now)
            connection.executemany(SQL["remove_between"], done_ranges)
            _bury(dead_rows, connection)
            return self._forget_surplus(connection, kept)

        self._kept = self.file.write(work)

    def _forget_surplus(self, connection: sqlite3.Connection, kept: "_Kept | None" = None) -> "_Kept":
        """Delete of what is kept the oldest, as long as it is more or older than told; what is left."""
        records, size, oldest = kept or self._kept
        while self._bounds is not None and records and self._bounds.are_exceeded(records, size, _age(oldest)):
            last = 0
            oldest = None
            for id_, delivered_at, length in connection.execute(SQL["oldest_delivered"]):
                oldest = delivered_at
                if not self._bounds.are_exceeded(records, size, _age(delivered_at)):
                    break
                last, records, size = id_, records - 1, size - length
            if not last:
                break
            connection.execute(SQL["forget_delivered"], {"id": last})
        return _Kept(records, size, oldest if records else None)

    @_in_thread
    def put_last(self, record: Pending) -> None:
        """Move a record to the end of the line."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["append_again"], {"seq": record.seq})
            connection.execute(SQL["remove"], {"seq": record.seq})

        self.file.write(work)

    @_in_thread
    def status(self) -> SpoolStatus:
        """See Spool.status."""
        return self._contents.status()

    @_in_thread
    def dead_letters(self) -> list[DeadLetter]:
        """See Spool.dead_letters."""
        return self._contents.dead_letters()

    @_in_thread
    def redrive(self, request_ids: Collection[str] | None) -> int:
        """See Spool.redrive."""
        return self._contents.redrive(request_ids)

    @_in_thread
    def resend(self, since: datetime) -> tuple[int, int]:
        """See Spool.resend. Gives the number of records put back in line, and their bytes."""
        before = self._contents.status().bytes
        resent = self._contents.resend(since)
        ((records, size, oldest),) = self.file.rows("count_delivered")
        self._kept = _Kept(records, size, oldest)
        return resent, self._contents.status().bytes - before

    @_in_thread
    def discard(self, request_ids: Collection[str] | None) -> tuple[int, int]:
        """See Spool.discard. Gives the number of dead letters deleted, and their bytes."""
        before = self._contents.status().bytes
        return self._contents.discard(request_ids), before - self._contents.status().bytes


def _age(delivered_at: object) -> float:
    """How long ago this was, in seconds; for ever if it is no time, as in a file that was tampered with."""
    at = read_time(delivered_at)
    return inf if at is None else (datetime.now(UTC) - at).total_seconds()


def _ranges(records: Sequence[Pending]) -> Iterator[tuple[int, int]]:
    """The first and last `seq` of records that follow each other: deleting 1,000 at once costs a quarter."""
    first = last = 0
    for record in records:
        if record.seq != last + 1:
            if last:
                yield first, last
            first = record.seq
        last = record.seq
    if last:
        yield first, last


def _bury(dead: list[dict[str, Any]], connection: sqlite3.Connection) -> None:
    connection.executemany(SQL["add_dead"], dead)
    connection.executemany(SQL["remove"], [{"seq": row["seq"]} for row in dead])


def _now() -> str:
    return as_text(datetime.now(UTC))
