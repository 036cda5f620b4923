"""What is stored: one statement records, one finds. The outcome of each report is decided here."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
from msgspec import Struct, structs

from billing_client.contract.wire import FieldConflict, Outcome, UsageRecord, VoidedUsage
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.rollups import take_from_rollups

_USAGE = load_queries("usage")
_CUSTOMERS = load_queries("customers")


class Report(Struct, frozen=True):
    """One report of usage: the record it would become, and the name of the call that brought it."""

    record: UsageRecord[str]
    idempotency_key: str | None


class Verdict(Struct, frozen=True):
    """What became of a report. `record` is the stored one (the one that would be stored, where it is recordable),
    None where the customer is unknown."""

    outcome: Outcome
    record: UsageRecord[str] | None = None
    conflicts: list[FieldConflict] | None = None


class _Stored(NamedTuple):
    record: UsageRecord[str]
    idempotency_key: str | None


UNKNOWN_CUSTOMER = Verdict("rejected")
WARY_CALLS = 5  # after one with usage that was there already; then all is taken for new again
_COMPARED = (("service", "service"), ("unitsConsumed", "units_consumed"), ("pricePerUnit", "price_per_unit"))


class KnownCustomers:
    """The customers seen in the database so far, so that most reports need no look-up: customers are never deleted."""

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


class Ledger:
    """Records usage. Most of it is new, of a known customer, and that costs least."""

    def __init__(self) -> None:
        self._customers = KnownCustomers()
        self._wary = 0

    async def record(self, connection: Connection, reports: Sequence[Report]) -> list[Verdict]:
        """Record what is new, in one transaction; the verdicts are in the order of the reports, as if sent in order."""
        first = await _first_of_known_customers(connection, self._customers, reports)
        try:
            fresh = await self._record(connection, first)
        except asyncpg.ForeignKeyViolationError:
            self._customers.forget()
            first = await _first_of_known_customers(connection, self._customers, reports)
            fresh = await self._record(connection, first)
        stored = await _find(connection, [report.record for id_, report in first.items() if id_ not in fresh])
        return _decide(reports, first, fresh, stored, "recorded")

    async def _record(self, connection: Connection, first: dict[str, Report]) -> Collection[str]:
        """Record what is not there yet, and return the request ids of that."""
        if not first:
            return ()
        if len(first) == 1:
            return await _record_one(connection, *first.values())
        fresh = await connection.fetchval(_USAGE["record_usage"], not self._wary, *_columns(first.values()))
        self._wary = max(0, self._wary - 1) if fresh is None or len(fresh) == len(first) else WARY_CALLS
        return first.keys() if fresh is None else {request_id.hex() for request_id in fresh}


async def _record_one(connection: Connection, report: Report) -> Collection[str]:
    """As `Ledger._record`, for a call that comes alone."""
    record = report.record
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
        report.idempotency_key,
    )
    return (record.request_id,) if is_new else ()


async def judge_reports(connection: Connection, reports: Sequence[Report]) -> list[Verdict]:
    """Say what `record_reports` would say, without writing anything."""
    first = await _first_of_known_customers(connection, KnownCustomers(), reports)
    stored = await _find(connection, [report.record for report in first.values()])
    return _decide(reports, first, first.keys() - stored.keys(), stored, "recordable")


async def _first_of_known_customers(
    connection: Connection, customers: KnownCustomers, reports: Iterable[Report]
) -> dict[str, Report]:
    """The first report of each usage by request id, less those of unknown customers."""
    known = await customers.among(connection, {report.record.customer_id for report in reports})
    first: dict[str, Report] = {}
    for report in reports:
        if report.record.customer_id in known:
            first.setdefault(report.record.request_id, report)
    return first


def _columns(reports: Iterable[Report]) -> tuple[object, ...]:
    """The reports as the query that records takes them: what is the same for all is given once, text goes in one piece.

    Measured in batches of 1,000: 0.5 µs a record, where an array for each column takes 3.0.
    """
    ordered = sorted(reports, key=lambda report: (report.record.customer_id, report.record.request_id))
    records = [report.record for report in ordered]
    recorded = [record.recorded_at for record in records]
    at_once = all(record.occurred_at is record.recorded_at for record in records)
    return (
        "\n".join([record.customer_id for record in records]),
        [bytes.fromhex(record.request_id) for record in records],
        "\n".join([record.event_id or "" for record in records]),
        "\n".join([record.service for record in records]),
        "\n".join([record.units_consumed for record in records]),
        "\n".join([record.price_per_unit for record in records]),
        None if at_once else [record.occurred_at for record in records],
        recorded[:1] if recorded.count(recorded[0]) == len(recorded) else recorded,
        "\n".join([report.idempotency_key or "" for report in ordered]),
    )


async def _find(connection: Connection, records: Sequence[UsageRecord[str]]) -> dict[str, _Stored]:
    """The stored records with the same request ids. A later statement than the insert, so it sees rivals' commits."""
    if not records:
        return {}
    rows = await connection.fetch(
        _USAGE["find_usage"],
        [record.customer_id for record in records],
        [bytes.fromhex(record.request_id) for record in records],
    )
    return {row["request_id"].hex(): _Stored(record_of(row), row["idempotency_key"]) for row in rows}


def _decide(
    reports: Sequence[Report],
    first: dict[str, Report],
    fresh: Collection[str],
    stored: dict[str, _Stored],
    new: Outcome,
) -> list[Verdict]:
    if len(fresh) == len(reports):  # as in most calls
        return [Verdict(new, report.record) for report in reports]
    unseen = set(fresh)
    stored = stored | {id_: _Stored(first[id_].record, first[id_].idempotency_key) for id_ in unseen}
    verdicts = []
    for report in reports:
        id_ = report.record.request_id
        if id_ not in first:
            verdicts.append(UNKNOWN_CUSTOMER)
        elif id_ in unseen:
            unseen.remove(id_)
            verdicts.append(Verdict(new, stored[id_].record))
        else:
            verdicts.append(_compare(report, stored[id_]))
    return verdicts


def _compare(report: Report, stored: _Stored) -> Verdict:
    conflicts = [
        FieldConflict(field=name, recorded=getattr(stored.record, field), submitted=getattr(report.record, field))
        for name, field in _COMPARED
        if getattr(stored.record, field) != getattr(report.record, field)
    ]
    if conflicts:
        return Verdict("conflict", stored.record, conflicts)
    if report.idempotency_key is not None and report.idempotency_key == stored.idempotency_key:
        return Verdict("replayed", stored.record)
    return Verdict("duplicate", stored.record)


async def find_record(connection: Connection, customer_id: str, request_id: bytes) -> UsageRecord[str] | None:
    """One record of a customer, by the 32 bytes of its request id."""
    row = await connection.fetchrow(_USAGE["find_usage"], [customer_id], [request_id])
    return None if row is None else record_of(row)


async def void_record(
    connection: Connection, customer_id: str, request_id: bytes, reason: str, voided_by: str, voided_at: datetime
) -> VoidedUsage[str] | None:
    """Take a record out of what is owed, once; None where there is no such record."""
    record = await find_record(connection, customer_id, request_id)
    if record is None:
        return None
    async with connection.transaction():
        voided = await connection.fetchrow(_USAGE["void_usage"], customer_id, request_id, reason, voided_by, voided_at)
        if voided is not None:
            await take_from_rollups(connection, record)
    row = (await connection.fetch(_USAGE["find_usage"], [customer_id], [request_id]))[0]
    return voided_of(row)


async def list_records(
    connection: Connection,
    customer_id: str,
    after: tuple[datetime, bytes],
    until: datetime,
    service: str | None,
    limit: int,
) -> list[UsageRecord[str]]:
    """At most `limit` records of a customer after a position, by (occurred at, request id)."""
    rows = await connection.fetch(_USAGE["list_usage"], customer_id, *after, until, service, limit)
    return [record_of(row) for row in rows]


async def read_pages(
    connection: Connection,
    customer_id: str,
    after: tuple[datetime, bytes],
    until: datetime,
    service: str | None,
    limit: int,
    size: int,
) -> AsyncIterator[list[UsageRecord[str]]]:
    """The records that `list_records` gives, page by page from a cursor, within a transaction."""
    cursor = await connection.cursor(_USAGE["list_usage"], customer_id, *after, until, service, limit)
    while rows := await cursor.fetch(size):
        yield [record_of(row) for row in rows]


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
    )


def voided_of(row: asyncpg.Record) -> VoidedUsage[str]:
    """The record that a row holds, voided."""
    return VoidedUsage(**structs.asdict(record_of(row)), void_reason=row["reason"], voided_by=row["voided_by"])
