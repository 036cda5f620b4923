"""What the fake service remembers, and what it decides: the contract, in memory."""

from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from msgspec import Struct, structs

from billing_client.contract.identity import new_customer_id
from billing_client.contract.problems import (
    ProblemError,
    customer_exists,
    customer_not_found,
    duplicate_record,
    event_id_conflict,
    invalid_input,
    usage_not_found,
)
from billing_client.contract.wire import (
    BatchResult,
    Customer,
    FieldConflict,
    NewCustomer,
    NewVoid,
    UsageRecord,
    VoidedUsage,
)

_COMPARED = {"service": "service", "unitsConsumed": "units_consumed", "pricePerUnit": "price_per_unit"}


class Stored(Struct, frozen=True):
    """A record, or a customer, and the name of the call that made it."""

    value: Any
    idempotency_key: str | None


_Identity = tuple[str, str]  # customer id, request id


class Ledger:
    """Customers, records and voids. Everything that cannot be done raises ProblemError, as the service answers."""

    def __init__(self) -> None:
        self.voids: dict[_Identity, VoidedUsage[str]] = {}
        self._customers: dict[str, Stored] = {}
        self._records: dict[_Identity, Stored] = {}
        self._cursors: dict[str, tuple[object, Any]] = {}

    def add_customer(self, new: NewCustomer, key: str | None) -> tuple[Customer, bool]:
        """The customer, and whether this is a retry of the call that made it."""
        now = datetime.now(UTC)
        customer = Customer(id=new.id or new_customer_id(), name=new.name, created_at=now, updated_at=now)
        stored = self._customers.setdefault(customer.id, Stored(customer, key))
        found: Customer = stored.value
        if found is customer:
            return customer, False
        is_renamed = found.updated_at > found.created_at
        if key is None or key != stored.idempotency_key or not (is_renamed or found.name == new.name):
            raise ProblemError(customer_exists(customer.id))
        return found, True

    def customer(self, customer_id: str) -> Customer:
        if customer_id not in self._customers:
            raise ProblemError(customer_not_found(customer_id))
        customer: Customer = self._customers[customer_id].value
        return customer

    def rename_customer(self, customer_id: str, name: str) -> Customer:
        customer = self.customer(customer_id)
        if name != customer.name:
            customer = structs.replace(customer, name=name, updated_at=datetime.now(UTC))
            self._customers[customer_id] = structs.replace(self._customers[customer_id], value=customer)
        return customer

    def customers(self) -> list[Customer]:
        """All customers, by id."""
        return [self._customers[customer_id].value for customer_id in sorted(self._customers)]

    def record(
        self, reports: Sequence[UsageRecord[str]], key: str | None, dry_run: bool = False
    ) -> Iterator[BatchResult[str]]:
        """What becomes of the reports of one call, in order. Usage that it reports twice is no retry of the call."""
        records: MutableMapping[_Identity, Stored] = ChainMap({}, self._records) if dry_run else self._records
        seen: set[_Identity] = set()
        for report in reports:
            identity = (report.customer_id, report.request_id)
            result = self._record(records, report, None if identity in seen else key)
            is_new = dry_run and result.outcome == "recorded"
            yield structs.replace(result, outcome="recordable") if is_new else result
            seen.add(identity)

    def _record(
        self, records: MutableMapping[_Identity, Stored], report: UsageRecord[str], key: str | None
    ) -> BatchResult[str]:
        if report.customer_id not in self._customers:
            refusal = customer_not_found(report.customer_id, report.request_id)
            return BatchResult(outcome="rejected", problem=refusal)
        stored = records.setdefault((report.customer_id, report.request_id), Stored(report, key))
        found: UsageRecord[str] = stored.value
        if found is report:
            return BatchResult(outcome="recorded", record=report)
        if conflicts := _conflicts(found, report):
            return BatchResult(outcome="conflict", problem=event_id_conflict(found, report, conflicts))
        if key is not None and key == stored.idempotency_key:
            return BatchResult(outcome="replayed", record=found)
        return BatchResult(outcome="duplicate", problem=duplicate_record(found, report))

    def find(self, customer_id: str, request_id: str) -> UsageRecord[str]:
        self.customer(customer_id)
        if (customer_id, request_id) not in self._records:
            raise ProblemError(usage_not_found(request_id))
        record: UsageRecord[str] = self._records[customer_id, request_id].value
        return record

    def void(self, customer_id: str, request_id: str, void: NewVoid) -> VoidedUsage[str]:
        """Take a record out of what is owed, once."""
        record, identity = self.find(customer_id, request_id), (customer_id, request_id)
        if identity not in self.voids:
            record = structs.replace(record, voided_at=datetime.now(UTC))
            self._records[identity] = structs.replace(self._records[identity], value=record)
            self.voids[identity] = VoidedUsage(
                **structs.asdict(record), void_reason=void.reason, voided_by=void.voided_by or "anonymous"
            )
        return self.voids[identity]

    def records(
        self, customer_id: str | None, start: datetime, end: datetime, service: str | None = None
    ) -> list[UsageRecord[str]]:
        """The records of a customer, or of all, by (customer, occurred at, request id); `start` is in, `end` is out."""
        records = [
            record
            for record in self.all_records()
            if (customer_id is None or record.customer_id == customer_id)
            and (service is None or record.service == service)
            and start <= record.occurred_at < end
        ]
        return sorted(records, key=lambda record: (record.customer_id, record.occurred_at, record.request_id))

    def all_records(self) -> list[UsageRecord[str]]:
        """All records, in the order in which they were recorded."""
        return [stored.value for stored in self._records.values()]

    def write_cursor(self, scope: object, position: object) -> str:
        """A cursor for this position in the list that `scope` names."""
        cursor = uuid4().hex
        self._cursors[cursor] = (scope, position)
        return cursor

    def read_cursor(self, scope: object, cursor: str | None) -> Any:
        """The position that a cursor of this list holds, None without one."""
        if not cursor:
            return None
        known_scope, position = self._cursors.get(cursor, (None, None))
        if known_scope != scope:
            raise invalid_input("query/cursor", "is not a cursor of this list with these filters")
        return position


def _conflicts(stored: UsageRecord[str], report: UsageRecord[str]) -> list[FieldConflict]:
    return [
        FieldConflict(field=name, recorded=getattr(stored, field), submitted=getattr(report, field))
        for name, field in _COMPARED.items()
        if getattr(stored, field) != getattr(report, field)
    ]
