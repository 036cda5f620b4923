"""What is stored: one statement records, one finds. The outcome of each submission is decided here."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import is_
from types import MappingProxyType
from typing import Any, TypeVar

import asyncpg
import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from billing_client.contract.outcomes import UNKNOWN_CUSTOMER, Decision, Submission, compare
from billing_client.contract.wire import NewVoid, Outcome, UsageRecord, VoidedUsage
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.database.replication import wait_for_standbys
from billing_service.ledger.api_keys import key_id_bytes, key_name
from billing_service.ledger.loop_slices import MOST, in_slices, let_others_in, sorted_in_slices
from billing_service.ledger.rollups import take_from_rollups

T = TypeVar("T")
_USAGE = load_queries("usage")
_CUSTOMERS = load_queries("customers")


_encode = msgspec.json.Encoder().encode
_decode_dimensions = msgspec.json.Decoder(dict[str, str]).decode
FIND_RECORDS = 1_000  # that are looked for in one statement: more would hold the event loop when they come
WARY_CALLS = 5  # after one with usage that was there already; then all is taken for new again


class KnownCustomers:
    """Customers seen in the database so far, so that most submissions need no look-up. Customers are never deleted."""

    def __init__(self, bound: int = 100_000) -> None:
        self._ids: set[str] = set()
        self._bound = bound

    async def among(self, connection: Connection, customer_ids: set[str]) -> set[str]:
        """Those of these that are customers."""
        known = customer_ids & self._ids
        if missing := customer_ids - known:
            rows = await connection.fetch(_CUSTOMERS["known_customers"], list(missing))
            found = {row["customer_id"] for row in rows}
            if len(self._ids) > self._bound:
                self._ids.clear()
            self._ids |= found
            known |= found
        return known

    def forget(self) -> None:
        """Look them all up again: the database was put back to an earlier state."""
        self._ids.clear()


class UsageWriter:
    """Records usage. Most of it is new, of a known customer, and that costs least."""

    def __init__(self) -> None:
        self._customers = KnownCustomers()
        self._wary = 0
        self._repeats = False  # whether all usage of the latest call was there already

    async def record(
        self, connection: Connection, submissions: Sequence[Submission], is_sent: asyncio.Event | None = None
    ) -> list[Decision]:
        """Record what is new, in one transaction. Decisions come in the order of the submissions, as if sent so.

        `is_sent` is set when the statement that takes all for new is sent.
        """
        first = await _first_of_known_customers(connection, self._customers, submissions)
        # Who repeats one call repeats the next too, as a rule: to look before trying to insert costs half of the other.
        stored = await _find(connection, list(first.values())) if self._repeats and len(first) > 1 else {}
        try:
            fresh = await self._record(connection, first, stored, is_sent)
        except asyncpg.ForeignKeyViolationError:
            self._customers.forget()
            first = await _first_of_known_customers(connection, self._customers, submissions)
            fresh = await self._record(connection, first, stored, is_sent)
        if len(fresh) == len(submissions):  # as in most calls
            return [Decision("recorded", submission.record) for submission in submissions]
        late = [each for id_, each in first.items() if id_ not in fresh and id_ not in stored]
        stored |= await _find(connection, late)
        return await _decide(submissions, first, fresh, stored, "recorded")

    async def _record(
        self,
        connection: Connection,
        first: dict[str, Submission],
        stored: dict[str, Submission],
        is_sent: asyncio.Event | None,
    ) -> Collection[str]:
        """Record what is not there yet, and return the request ids of that. `stored` was found there already."""
        new = [each for id_, each in first.items() if id_ not in stored] if stored else list(first.values())
        self._repeats = bool(stored) and not new
        if not new:
            if stored:
                await wait_for_standbys(connection)
            return ()
        if len(new) == 1:
            return await _record_one(connection, new[0])
        near, columns = new[0].record.customer_id, await _columns(new)
        if is_sent and not self._wary and len(new) <= MOST:  # the answer to more takes too much memory beside `columns`
            is_sent.set()  # which is noticed when this waits for the answer
        fresh = await connection.fetchval(_USAGE["record_usage"], near, not self._wary, *columns)
        self._wary = max(0, self._wary - 1) if fresh is None or len(fresh) == len(new) else WARY_CALLS
        self._repeats = fresh is not None and not fresh
        if fresh is None:
            return {each.record.request_id for each in new} if stored else first.keys()
        return {request_id.hex() for request_id in fresh}


async def _record_one(connection: Connection, submission: Submission) -> Collection[str]:
    """As `UsageWriter._record`, for a call that comes alone."""
    record = submission.record
    is_new = await connection.fetchval(
        _USAGE["record_one_usage"],
        record.customer_id,
        bytes.fromhex(record.request_id),
        record.event_id,
        record.service,
        record.units_consumed,
        record.price_per_unit,
        record.occurred_at,
        record.recorded_at,
        submission.idempotency_key,
        key_id_bytes(record.recorded_by),
        _encode(record.dimensions).decode() if record.dimensions else None,
    )
    return (record.request_id,) if is_new else ()


async def decide_dry_run(connection: Connection, submissions: Sequence[Submission]) -> list[Decision]:
    """Say what `UsageWriter.record` would say, without writing anything."""
    first = await _first_of_known_customers(connection, KnownCustomers(), submissions)
    stored = await _find(connection, list(first.values()))
    return await _decide(submissions, first, first.keys() - stored.keys(), stored, "recordable")


async def _first_of_known_customers(
    connection: Connection, customers: KnownCustomers, submissions: Sequence[Submission]
) -> dict[str, Submission]:
    """The first submission of each usage by request id, less those of unknown customers."""
    known = await customers.among(connection, {submission.record.customer_id for submission in submissions})
    first: dict[str, Submission] = {}
    async for part in in_slices(submissions):
        for submission in part:
            if submission.record.customer_id in known:
                first.setdefault(submission.record.request_id, submission)
    return first


async def _columns(submissions: Iterable[Submission]) -> tuple[object, ...]:
    """The arguments of `record_usage`: what is the same for all is given once, the rest goes as one piece of text.

    Measured in batches of 1,000: 0.5 µs a record, where an array for each column takes 3.0. An array of 10,000 request
    ids, or times, held the event loop for 4 and 8 ms while asyncpg encoded it.
    """
    columns: list[list[Any]] = [[] for _ in range(11)]
    async for part in in_slices(await sorted_in_slices(list(submissions), _place)):
        records = [submission.record for submission in part]
        values: list[list[Any]] = [
            [record.customer_id for record in records],
            [record.request_id for record in records],
            [record.event_id or "" for record in records],
            [record.service for record in records],
            [record.units_consumed for record in records],
            [record.price_per_unit for record in records],
            [record.occurred_at for record in records],
            [record.recorded_at for record in records],
            [submission.idempotency_key or "" for submission in part],
            [record.recorded_by for record in records],
            [_encode(record.dimensions).decode() if record.dimensions else "" for record in records],
        ]
        for column, more in zip(columns, values, strict=True):
            column += more
    customer_ids, request_ids, event_ids, services, units, prices, occurred, recorded, keys, callers, dimensions = (
        columns
    )
    arguments = (
        "\n".join(customer_ids),
        "\\x" + ",\\x".join(request_ids),
        "\n".join(event_ids),
        "\n".join(services),
        "\n".join(units),
        "\n".join(prices),
        None if all(map(is_, occurred, recorded)) else await _times(occurred),
        _once(recorded),
        "\n".join(keys),
        [key_id_bytes(key) for key in _once(callers)],
        "\n".join(dimensions) if any(dimensions) else None,
    )
    if len(request_ids) > MOST:
        await let_others_in()  # before megabytes of text are encoded and sent
    return arguments


def _place(submission: Submission) -> str:
    """Sorts by customer and request id, as everyone inserts them, so that nobody waits for each other.

    Text sorts ten times as fast as pairs. A line feed, which no id contains, sorts below all that an id may contain.
    """
    return f"{submission.record.customer_id}\n{submission.record.request_id}"


async def _times(instants: list[datetime]) -> str:
    """Times as one text."""
    return ",".join([each.isoformat() async for part in in_slices(instants) for each in part])


def _once(values: list[T]) -> list[T]:
    """One value where all are the same, else all."""
    return values[:1] if values.count(values[0]) == len(values) else values


async def _find(connection: Connection, submissions: Sequence[Submission]) -> dict[str, Submission]:
    """The stored records with the same request ids. A later statement than the insert, so it sees rivals' commits."""
    found: dict[str, Submission] = {}
    for start in range(0, len(submissions), FIND_RECORDS):
        page = submissions[start : start + FIND_RECORDS]
        customer_ids = [submission.record.customer_id for submission in page]
        request_ids = [bytes.fromhex(submission.record.request_id) for submission in page]
        try:
            rows = await connection.fetch(_USAGE["find_many_usage"], customer_ids, request_ids)
        except asyncpg.FeatureNotSupportedError:  # by Citus, without the condition
            rows = await connection.fetch(_USAGE["find_usage"], customer_ids, request_ids)
        async for part in in_slices(rows):
            found |= {row["request_id"].hex(): Submission(record_of(row), row["idempotency_key"]) for row in part}
    return found


async def _decide(
    submissions: Sequence[Submission],
    first: dict[str, Submission],
    fresh: Collection[str],
    stored: dict[str, Submission],
    new: Outcome,
) -> list[Decision]:
    unseen = set(fresh)
    decisions = []
    async for part in in_slices(submissions):
        for submission in part:
            id_ = submission.record.request_id
            if id_ not in first:
                decisions.append(UNKNOWN_CUSTOMER)
            elif id_ in unseen:
                unseen.remove(id_)
                decisions.append(Decision(new, submission.record))
            else:
                decisions.append(compare(submission, stored.get(id_) or first[id_]))
    return decisions


async def find_record(connection: Connection, customer_id: str, request_id: bytes) -> UsageRecord[str] | None:
    """One record of a customer, by the 32 bytes of its request id."""
    row = await connection.fetchrow(_USAGE["find_usage"], [customer_id], [request_id])
    return None if row is None else record_of(row)


async def void_record(
    connection: Connection, customer_id: str, request_id: bytes, void: NewVoid, voided_by: str, voided_at: datetime
) -> VoidedUsage[str] | None:
    """Take a record out of what is owed, once; None where there is no such record."""
    record = await find_record(connection, customer_id, request_id)
    if record is None:
        return None
    async with connection.transaction():
        voided = await connection.fetchrow(
            _USAGE["void_usage"], customer_id, request_id, void.reason, voided_by, void.voided_for, voided_at
        )
        if voided is not None:
            await take_from_rollups(connection, record)
        else:
            await wait_for_standbys(connection)
    row = (await connection.fetch(_USAGE["find_usage"], [customer_id], [request_id]))[0]
    return voided_of(row)


class RecordFilter(Struct, frozen=True):
    """Which records of a customer to read.

    Attributes:
        end: Those that occurred before.
        service: Only those of this service; None for all.
        dimensions: Only those with these values of these dimensions.
    """

    end: datetime
    service: str | None = None
    dimensions: Mapping[str, str] = MappingProxyType({})

    @property
    def arguments(self) -> tuple[object, ...]:
        """The filter as `list_usage` takes it."""
        return self.end, self.service, dimensions_text(self.dimensions)

    def matching(self, records: list[UsageRecord[str]]) -> list[UsageRecord[str]]:
        """Those of some records that have the dimensions."""
        if not self.dimensions:
            return records
        return [each for each in records if self.dimensions.items() <= (each.dimensions or {}).items()]


def dimensions_text(dimensions: Mapping[str, str]) -> str | None:
    """Dimensions as a parameter of a query; None without any."""
    return _encode(dict(dimensions)).decode() if dimensions else None


async def list_records(
    connection: Connection, customer_id: str, after: tuple[datetime, bytes], wanted: RecordFilter, limit: int
) -> list[UsageRecord[str]]:
    """At most `limit` records of a customer after a position, by (occurred at, request id)."""
    rows = await connection.fetch(_USAGE["list_usage"], customer_id, *after, *wanted.arguments, limit)
    return [record_of(row) for row in rows]


async def read_pages(
    connection: Connection,
    customer_id: str,
    after: tuple[datetime, bytes],
    wanted: RecordFilter,
    limit: int,
    size: int,
) -> AsyncIterator[list[UsageRecord[str]]]:
    """The records that `list_records` gives, page by page from a cursor, within a transaction."""
    cursor = await connection.cursor(_USAGE["list_usage"], customer_id, *after, *wanted.arguments, limit)
    while rows := await cursor.fetch(size):
        yield [record_of(row) for row in rows]


def dimensions_of(row: asyncpg.Record) -> dict[str, str] | UnsetType:
    """The dimensions that a row holds, by the code points of their names; UNSET without any."""
    text = row["dimensions"]
    return UNSET if text is None else dict(sorted(_decode_dimensions(text).items()))


def record_of(row: asyncpg.Record) -> UsageRecord[str]:
    """The record that a row holds."""
    return UsageRecord(
        request_id=row["request_id"].hex(),
        customer_id=row["customer_id"],
        service=row["service"],
        units_consumed=row["units_consumed"],
        price_per_unit=row["price_per_unit"],
        amount=row["amount"],
        event_id=row["event_id"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        voided_at=row["voided_at"],
        recorded_by=key_name(row["recorded_by"]),
        dimensions=dimensions_of(row),
    )


def voided_of(row: asyncpg.Record) -> VoidedUsage[str]:
    """The record that a row holds, voided."""
    return VoidedUsage(
        **structs.asdict(record_of(row)),
        void_reason=row["reason"],
        voided_by=row["voided_by"],
        voided_for=row["voided_for"],
    )
