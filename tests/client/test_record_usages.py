"""Many uses at once, through the client and the service."""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from billing_client import (
    BillingSystemClient,
    CustomerNotFoundError,
    DuplicateRecordError,
    EventIdConflictError,
    Usage,
    UsageOutcome,
    ValidationError,
)
from billing_client.contract.identity import event_request_id
from tests.client.answers import as_read, usage

MIXED = [
    usage(1),
    usage(2, price_per_unit="-1"),
    usage(3),
    usage(1),
    usage(3, units_consumed=2),
    usage(4, customer_id="nobody"),
    usage(5, price_per_unit=Decimal("NaN"), service=""),
    usage(6),
]
OUTCOMES = ["recorded", "rejected", "recorded", "duplicate", "conflict", "rejected", "rejected", "recorded"]
ERRORS = [
    None,
    ValidationError,
    None,
    DuplicateRecordError,
    EventIdConflictError,
    CustomerNotFoundError,
    ValidationError,
    None,
]


async def numbered(count: int) -> AsyncIterator[Usage]:
    for number in range(count):
        yield usage(number)


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1_000, 1), (3, 1), (1, 1)])
async def test_each_use_gets_its_outcome_in_order(
    client: BillingSystemClient, customer_id: str, batch_size: int, concurrency: int
) -> None:
    given = client.record_usages(MIXED, batch_size=batch_size, concurrency=concurrency)
    outcomes = [outcome async for outcome in given]
    assert [outcome.usage for outcome in outcomes] == MIXED
    assert [outcome.outcome for outcome in outcomes] == OUTCOMES
    assert [outcome.error and type(outcome.error) for outcome in outcomes] == ERRORS
    check_members(outcomes)
    stored = {record.event_id async for record in client.usage(customer_id=customer_id)}
    assert stored == {"event-1", "event-3", "event-6"}


def check_members(outcomes: list[UsageOutcome]) -> None:
    first, invalid, second, duplicate, conflict, unknown, _, _ = outcomes
    assert first.request_id == event_request_id("acme", "event-1")
    assert first.record is not None
    assert first.record.outcome == "recorded"
    assert duplicate.record is not None
    assert duplicate.record.outcome == "duplicate"
    assert as_read(duplicate.record) == as_read(first.record)
    assert isinstance(conflict.error, EventIdConflictError)
    assert second.record is not None
    assert as_read(conflict.error.existing) == as_read(second.record)
    assert [c.field for c in conflict.error.conflicts] == ["unitsConsumed"]
    assert (invalid.record, invalid.request_id, unknown.record) == (None, None, None)
    assert unknown.error is not None
    assert (unknown.error.outcome, unknown.error.request_id) == ("rejected", unknown.request_id)


async def test_an_async_iterable_is_read_as_well(client: BillingSystemClient, customer_id: str) -> None:
    outcomes = [outcome async for outcome in client.record_usages(numbered(250), batch_size=40, concurrency=3)]
    assert [outcome.usage for outcome in outcomes] == [usage(number) for number in range(250)]
    assert {outcome.outcome for outcome in outcomes} == {"recorded"}
    assert len([record async for record in client.usage(customer_id=customer_id)]) == 250


async def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    client: BillingSystemClient, customer_id: str
) -> None:
    await client.record_usage(**{field: getattr(usage(3), field) for field in Usage.__struct_fields__})
    outcomes = [outcome async for outcome in client.record_usages([usage(1), usage(3)], dry_run=True)]
    assert [outcome.outcome for outcome in outcomes] == ["recordable", "duplicate"]
    recordable, duplicate = outcomes
    assert recordable.error is None
    assert recordable.record is None or recordable.record.outcome is None
    assert isinstance(duplicate.error, DuplicateRecordError)
    assert [record.event_id async for record in client.usage(customer_id=customer_id)] == ["event-3"]


async def test_what_was_recorded_before_is_a_duplicate(client: BillingSystemClient, customer_id: str) -> None:
    first = [outcome async for outcome in client.record_usages(numbered(5), batch_size=2)]
    again = [outcome async for outcome in client.record_usages(numbered(5), batch_size=3)]
    assert [outcome.outcome for outcome in again] == ["duplicate"] * 5
    for before, after in zip(first, again, strict=True):
        assert before.record is not None
        assert after.record is not None
        assert as_read(after.record) == as_read(before.record)
