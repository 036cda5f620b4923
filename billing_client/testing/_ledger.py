"""The data of the fake service, in memory. What becomes of reported usage is decided by `contract.outcomes`."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from msgspec import Struct, structs

from billing_client.contract.identity import new_customer_id
from billing_client.contract.outcomes import (
    UNKNOWN_CUSTOMER,
    Decision,
    Submission,
    compare,
    refusal_of,
    submissions_of,
)
from billing_client.contract.problems import (
    ProblemError,
    customer_exists,
    customer_not_found,
    invalid_input,
    usage_not_found,
)
from billing_client.contract.wire import BatchResult, Customer, NewCustomer, NewVoid, UsageRecord, VoidedUsage

_Identity = tuple[str, str]  # customer id, request id


class _CustomerEntry(Struct, frozen=True):
    """A customer, and the `Idempotency-Key` of the call that created it."""

    customer: Customer
    idempotency_key: str | None


class FakeLedger:
    """Customers, records and voids. Every refusal is a ProblemError, with the problem that the service answers."""

    def __init__(self) -> None:
        self._voids: dict[_Identity, VoidedUsage[str]] = {}
        self._customers: dict[str, _CustomerEntry] = {}
        self._usage: dict[_Identity, Submission] = {}
        self._cursors: dict[str, tuple[object, Any]] = {}

    def add_customer(self, new: NewCustomer, idempotency_key: str | None) -> tuple[Customer, bool]:
        """The customer, and whether this is a retry of the call that created it."""
        now = datetime.now(UTC)
        customer = Customer(id=new.id or new_customer_id(), name=new.name, created_at=now, updated_at=now)
        entry = self._customers.setdefault(customer.id, _CustomerEntry(customer, idempotency_key))
        found = entry.customer
        if found is customer:
            return customer, False
        is_renamed = found.updated_at > found.created_at
        is_same_call = idempotency_key is not None and idempotency_key == entry.idempotency_key
        if not (is_same_call and (is_renamed or found.name == new.name)):
            raise ProblemError(customer_exists(customer.id))
        return found, True

    def customer(self, customer_id: str) -> Customer:
        if customer_id not in self._customers:
            raise ProblemError(customer_not_found(customer_id))
        return self._customers[customer_id].customer

    def rename_customer(self, customer_id: str, name: str) -> Customer:
        customer = self.customer(customer_id)
        if name != customer.name:
            customer = structs.replace(customer, name=name, updated_at=datetime.now(UTC))
            self._customers[customer_id] = structs.replace(self._customers[customer_id], customer=customer)
        return customer

    def customers(self) -> list[Customer]:
        """All customers, by id."""
        return [self._customers[customer_id].customer for customer_id in sorted(self._customers)]

    def record(
        self, records: Sequence[UsageRecord[str]], idempotency_key: str | None, dry_run: bool = False
    ) -> Iterator[BatchResult[str]]:
        """Record the usage of one call, and give what became of it, in order."""
        usage: MutableMapping[_Identity, Submission] = ChainMap({}, self._usage) if dry_run else self._usage
        for submission in submissions_of(records, idempotency_key):
            decision = self._decide(usage, submission)
            problem = refusal_of(decision, submission.record)
            if problem is not None:
                yield BatchResult(outcome=decision.outcome, problem=problem)
            else:
                is_new = decision.outcome == "recorded"
                yield BatchResult(
                    outcome="recordable" if dry_run and is_new else decision.outcome, record=decision.record
                )

    def _decide(self, usage: MutableMapping[_Identity, Submission], submission: Submission) -> Decision:
        record = submission.record
        if record.customer_id not in self._customers:
            return UNKNOWN_CUSTOMER
        stored = usage.setdefault((record.customer_id, record.request_id), submission)
        return Decision("recorded", record) if stored is submission else compare(submission, stored)

    def find(self, customer_id: str, request_id: str) -> UsageRecord[str]:
        self.customer(customer_id)
        if (customer_id, request_id) not in self._usage:
            raise ProblemError(usage_not_found(request_id))
        return self._usage[customer_id, request_id].record

    def find_anywhere(self, request_id: str) -> UsageRecord[str]:
        """The record with a request id, of whichever customer."""
        for record in self.all_records():
            if record.request_id == request_id:
                return record
        raise ProblemError(usage_not_found(request_id, of_all=True))

    def void(self, customer_id: str, request_id: str, void: NewVoid) -> VoidedUsage[str]:
        """Void a record. A second void changes nothing and gives the first."""
        record, identity = self.find(customer_id, request_id), (customer_id, request_id)
        if identity not in self._voids:
            record = structs.replace(record, voided_at=datetime.now(UTC))
            self._usage[identity] = structs.replace(self._usage[identity], record=record)
            self._voids[identity] = VoidedUsage(
                **structs.asdict(record), void_reason=void.reason, voided_by="anonymous", voided_for=void.voided_for
            )
        return self._voids[identity]

    def records(
        self,
        customer_id: str | None,
        start: datetime,
        end: datetime,
        service: str | None = None,
        dimensions: Mapping[str, str] = MappingProxyType({}),
    ) -> list[UsageRecord[str]]:
        """The records of a customer, or of all, by (customer, occurred at, request id); `start` is in, `end` is out."""
        records = [
            record
            for record in self.all_records()
            if (customer_id is None or record.customer_id == customer_id)
            and (service is None or record.service == service)
            and dimensions.items() <= (record.dimensions or {}).items()
            and start <= record.occurred_at < end
        ]
        return sorted(records, key=lambda record: (record.customer_id, record.occurred_at, record.request_id))

    def all_records(self) -> list[UsageRecord[str]]:
        """All records, in the order in which they were recorded."""
        return [submission.record for submission in self._usage.values()]

    def write_cursor(self, scope: object, position: object) -> str:
        """A cursor for this position in the list that `scope` identifies."""
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
