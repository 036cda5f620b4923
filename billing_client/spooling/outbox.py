"""A spool as its recorder uses it: records go in at one end, batches come out at the other."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from msgspec import Struct

from billing_client._batches import BATCH_BYTES
from billing_client._encoding import EncodedUsage
from billing_client.spooling.spool import Spool
from billing_client.spooling.spool_file import SQL, SpoolFile


class Entry(Struct, frozen=True):
    """A use to keep; without an Idempotency-Key it gets one."""

    usage: EncodedUsage
    idempotency_key: str | None


class Pending(Struct, frozen=True):
    """A record that waits to be delivered; `attempts` counts the one it was taken for."""

    seq: int
    idempotency_key: str
    request_id: str
    attempts: int
    body: bytes


class _Group:
    """The records that share an Idempotency-Key, so that one batch can carry them; no two of them the same usage.

    So a key and a request id name one call of `record()` for ever, and what the
    service says tells apart whose record it has: `replayed` is this very call's, `duplicate` is another call's.
    """

    def __init__(self, records: int) -> None:
        self._records = records
        self._begin()

    def _begin(self) -> None:
        self._key = str(uuid4())
        self._request_ids: set[str] = set()
        self._size = 0

    def key_for(self, usage: EncodedUsage) -> str:
        """The key of the group that takes in this use: the present one, or where it cannot, the next."""
        is_full = len(self._request_ids) == self._records or self._size + len(usage.body) > BATCH_BYTES
        if is_full or usage.request_id in self._request_ids:
            self._begin()
        self._request_ids.add(usage.request_id)
        self._size += len(usage.body)
        return self._key


class Outbox(Spool):
    """The spool of a recorder that runs, on disk or, without a path, in memory. Every method raises SpoolError."""

    def __init__(self, path: Path | None, batch_size: int) -> None:
        self._file = SpoolFile(path, create=True, read_only=False)
        self._group = _Group(batch_size)

    def check_process(self) -> None:
        """Raises SpoolForkedError in a process that was forked from the one that opened it."""
        self._file.check_process()

    def append(self, entries: Iterable[Entry]) -> None:
        """Keep uses, all or none; on disk when it returns."""
        recorded_at = _now()
        rows = [
            {
                "idempotency_key": entry.idempotency_key or self._group.key_for(entry.usage),
                "request_id": entry.usage.request_id,
                "recorded_at": recorded_at,
                "body": entry.usage.body,
            }
            for entry in entries
        ]
        with self._file.transaction() as connection:
            connection.executemany(SQL["append"], rows)

    def take(self, records: int) -> list[Pending]:
        """At most so many records for one batch, each another usage, with this attempt counted on disk."""
        with self._file.transaction() as connection:
            rows = connection.execute(SQL["next_batch"], {"records": records}).fetchall()
            batch: dict[str, Pending] = {}
            for seq, key, request_id, attempts, body in rows:
                if request_id in batch:
                    break
                batch[request_id] = Pending(seq, key, request_id, attempts + 1, body)
            taken = list(batch.values())
            if taken:
                connection.execute(SQL["count_attempt"], {"first": taken[0].seq, "last": taken[-1].seq})
        return taken

    def settle(self, done: Sequence[Pending], dead: Sequence[tuple[Pending, bytes]]) -> None:
        """Forget what is delivered, and bury what was refused with the JSON of its problem."""
        dead_at = _now()
        with self._file.transaction() as connection:
            for record, problem in dead:
                connection.execute(SQL["bury"], {"seq": record.seq, "dead_at": dead_at, "problem": problem})
            settled = [*done, *(record for record, _ in dead)]
            connection.executemany(SQL["remove"], ({"seq": record.seq} for record in settled))

    def discard_sized(self, request_ids: Collection[str] | None) -> tuple[int, int]:
        """As `discard`; says how many, and their bytes."""
        before = self.status().bytes
        return self.discard(request_ids), before - self.status().bytes

    def put_last(self, record: Pending) -> None:
        """Let the others go first."""
        with self._file.transaction() as connection:
            connection.execute(SQL["append_again"], {"seq": record.seq})
            connection.execute(SQL["remove"], {"seq": record.seq})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
