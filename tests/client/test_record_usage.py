"""Single records, through the client and the service."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from billing_client import (
    BillingSystemClient,
    CustomerNotFoundError,
    DuplicateRecordError,
    EventIdConflictError,
    FieldConflict,
    UsageNotFoundError,
    ValidationError,
)
from billing_client.contract.identity import event_request_id, usage_request_id
from tests.calls import is_now
from tests.client.answers import USAGE, as_read

AN_HOUR_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


async def test_new_usage_is_recorded(client: BillingSystemClient, customer_id: str) -> None:
    record = await client.record_usage(**USAGE, occurred_at=AN_HOUR_AGO)
    assert record.outcome == "recorded"
    assert record.request_id == event_request_id(customer_id, "event-1")
    assert (record.customer_id, record.service, record.event_id) == (customer_id, "storage", "event-1")
    assert (record.units_consumed, record.price_per_unit) == (Decimal("1.5"), Decimal("0.02"))
    assert record.amount == Decimal("0.03")
    assert record.occurred_at == AN_HOUR_AGO
    assert is_now(record.recorded_at, since=AN_HOUR_AGO)
    assert record.voided_at is None
    stored = await client.get_usage(customer_id=customer_id, request_id=record.request_id)
    assert stored == as_read(record)


async def test_usage_without_an_event_id_is_known_by_its_content(client: BillingSystemClient, customer_id: str) -> None:
    record = await client.record_usage(
        customer_id=customer_id, service="storage", units_consumed=Decimal("1.50E+1"), price_per_unit=2
    )
    assert record.request_id == usage_request_id(customer_id, "storage", "15", "2")
    with pytest.raises(DuplicateRecordError) as caught:
        await client.record_usage(
            customer_id=customer_id, service="storage", units_consumed="15.0", price_per_unit=Decimal(2)
        )
    assert caught.value.request_id == record.request_id


async def test_dimensions(client: BillingSystemClient, customer_id: str) -> None:
    pairs = {"region": "eu", "model": "large"}
    fields = {name: value for name, value in USAGE.items() if name != "event_id"}
    record = await client.record_usage(**fields, dimensions=pairs)
    assert record.request_id == usage_request_id(customer_id, "storage", "1.5", "0.02", pairs)
    assert record.dimensions == pairs
    with pytest.raises(DuplicateRecordError) as duplicate:
        await client.record_usage(**fields, dimensions=dict(reversed(pairs.items())))
    assert duplicate.value.existing.dimensions == pairs
    other = await client.record_usage(**fields, dimensions={})
    assert other.dimensions == {}
    with pytest.raises(DuplicateRecordError) as duplicate:
        await client.record_usage(**fields)
    assert duplicate.value.existing.dimensions == {}
    assert [kept.dimensions async for kept in client.usage(customer_id=customer_id)] == [pairs, {}]
    voided = await client.void_usage(customer_id=customer_id, request_id=record.request_id, reason="a test")
    assert voided.dimensions == pairs


async def test_dimensions_that_differ_are_named(client: BillingSystemClient, customer_id: str) -> None:
    await client.record_usage(**USAGE, dimensions={"model": "large"})
    assert (await client.record_usage(**USAGE, dimensions={"model": "large"}, on_duplicate="return")).event_id
    with pytest.raises(EventIdConflictError) as caught:
        await client.record_usage(**USAGE, dimensions={"model": "small"})
    assert caught.value.conflicts == [FieldConflict(field="dimensions.model", recorded="large", submitted="small")]


@pytest.mark.parametrize(
    ("dimensions", "pointers"),
    [
        ({"": "a"}, ["/dimensions/"]),
        ({"a/~b": ""}, ["/dimensions/a~1~0b"]),
        ({"a": 1, "b": None, "c": "x" * 201}, ["/dimensions/a", "/dimensions/b", "/dimensions/c"]),
        ({1: "a"}, ["/dimensions/1"]),
        ({str(n): "x" for n in range(17)}, ["/dimensions"]),
        ([("a", "b")], ["/dimensions"]),
    ],
)
async def test_dimensions_that_are_not_valid_are_not_sent(
    client: BillingSystemClient, dimensions: Any, pointers: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        await client.record_usage(**USAGE, dimensions=dimensions)
    assert [error.pointer for error in caught.value.errors] == pointers
    assert caught.value.outcome == "not_sent"


async def test_decimals_keep_every_digit(client: BillingSystemClient, customer_id: str) -> None:
    for digits in ("0", "99999999999999999999999999999999999999", "12345678901234567890.123456789012345678"):
        record = await client.record_usage(
            customer_id=customer_id, service="storage", units_consumed=Decimal(digits), price_per_unit=digits
        )
        assert str(record.units_consumed) == str(record.price_per_unit) == digits


async def test_the_callers_own_retry_is_replayed(client: BillingSystemClient, customer_id: str) -> None:
    first = await client.record_usage(**USAGE, idempotency_key="call-1")
    again = await client.record_usage(**USAGE, idempotency_key="call-1")
    assert (first.outcome, again.outcome) == ("recorded", "replayed")
    assert as_read(again) == as_read(first)


async def test_the_same_usage_from_another_call_is_a_duplicate(client: BillingSystemClient, customer_id: str) -> None:
    first = await client.record_usage(**USAGE, idempotency_key="call-1")
    with pytest.raises(DuplicateRecordError) as caught:
        await client.record_usage(**USAGE, idempotency_key="call-2")
    error = caught.value
    assert as_read(error.existing) == as_read(first)
    assert error.existing.outcome == "duplicate"
    assert (error.status, error.code, error.outcome) == (409, "duplicate_record", "rejected")
    assert (error.request_id, error.attempts, error.idempotency_key) == (first.request_id, 1, "call-2")


async def test_a_duplicate_is_returned_to_who_asks_for_it(client: BillingSystemClient, customer_id: str) -> None:
    first = await client.record_usage(**USAGE)
    again = await client.record_usage(**USAGE, on_duplicate="return")
    assert again.outcome == "duplicate"
    assert as_read(again) == as_read(first)


async def test_an_event_id_with_other_data_is_a_conflict(client: BillingSystemClient, customer_id: str) -> None:
    first = await client.record_usage(**USAGE)
    with pytest.raises(EventIdConflictError) as caught:
        await client.record_usage(**{**USAGE, "units_consumed": "2"}, on_duplicate="return")
    error = caught.value
    assert error.conflicts == [FieldConflict(field="unitsConsumed", recorded="1.5", submitted="2")]
    assert as_read(error.existing) == as_read(first)
    assert (error.status, error.code, error.outcome) == (422, "event_id_conflict", "rejected")
    assert (error.request_id, error.attempts) == (first.request_id, 1)
    assert error.idempotency_key


async def test_usage_of_an_unknown_customer_is_refused(client: BillingSystemClient) -> None:
    with pytest.raises(CustomerNotFoundError) as caught:
        await client.record_usage(**USAGE)
    assert (caught.value.status, caught.value.code, caught.value.outcome) == (404, "customer_not_found", "rejected")
    assert caught.value.request_id == event_request_id("acme", "event-1")


async def test_the_service_names_the_fault_that_only_it_can_see(client: BillingSystemClient, customer_id: str) -> None:
    with pytest.raises(ValidationError) as caught:
        await client.record_usage(**USAGE, occurred_at=datetime.now(UTC) + timedelta(hours=1))
    error = caught.value
    assert [fault.pointer for fault in error.errors] == ["/occurredAt"]
    assert (error.status, error.code, error.outcome, error.attempts) == (400, "validation_error", "rejected", 1)


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"units_consumed": 1.5}, ["/unitsConsumed"]),
        ({"units_consumed": True}, ["/unitsConsumed"]),
        ({"units_consumed": None}, ["/unitsConsumed"]),
        ({"units_consumed": 10**5000}, ["/unitsConsumed"]),
        ({"units_consumed": Decimal("NaN"), "price_per_unit": "-1"}, ["/unitsConsumed", "/pricePerUnit"]),
        ({"price_per_unit": Decimal("Infinity")}, ["/pricePerUnit"]),
        ({"price_per_unit": Decimal("1E-19")}, ["/pricePerUnit"]),
        ({"price_per_unit": "1e1000000000"}, ["/pricePerUnit"]),
        ({"customer_id": "", "service": ""}, ["/customerId", "/service"]),
        ({"customer_id": 5, "service": "\ud800"}, ["/customerId", "/service"]),
        ({"event_id": "a\0b", "service": "s" * 201}, ["/service", "/eventId"]),
        ({"occurred_at": datetime(2026, 1, 1)}, ["/occurredAt"]),  # noqa: DTZ001 - the fault under test
        ({"occurred_at": 5}, ["/occurredAt"]),
        ({"occurred_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))}, ["/occurredAt"]),
    ],
)
async def test_a_bad_record_is_refused_before_it_is_sent(changes: dict[str, Any], pointers: list[str]) -> None:
    async with BillingSystemClient(base_url="http://127.0.0.1:1") as client:
        with pytest.raises(ValidationError) as caught:
            await client.record_usage(**{**USAGE, **changes})
    error = caught.value
    assert [fault.pointer for fault in error.errors] == pointers
    assert all(fault.message in str(error) for fault in error.errors)
    assert (error.status, error.code, error.attempts, error.outcome) == (None, "validation_error", 0, "not_sent")


async def test_a_key_that_the_service_would_refuse_is_a_validation_error(client: BillingSystemClient) -> None:
    for key in ("", '"a', "a\nb", "ключ", "\ud800", "a b", "k" * 256):
        with pytest.raises(ValidationError) as caught:
            await client.record_usage(**USAGE, idempotency_key=key)
        assert [fault.pointer for fault in caught.value.errors] == ["header/Idempotency-Key"]


async def test_fifty_calls_at_once_record_once(client: BillingSystemClient, customer_id: str) -> None:
    results = await asyncio.gather(*(client.record_usage(**USAGE) for _ in range(50)), return_exceptions=True)
    duplicates = [result for result in results if isinstance(result, DuplicateRecordError)]
    (recorded,) = (result for result in results if not isinstance(result, BaseException))
    assert recorded.outcome == "recorded"
    assert len(duplicates) == 49
    assert {as_read(duplicate.existing).request_id for duplicate in duplicates} == {recorded.request_id}


async def test_usage_that_is_not_there_is_not_found(client: BillingSystemClient, customer_id: str) -> None:
    with pytest.raises(UsageNotFoundError) as caught:
        await client.get_usage(customer_id=customer_id, request_id="ab" * 32)
    assert (caught.value.status, caught.value.code) == (404, "usage_not_found")
    with pytest.raises(CustomerNotFoundError):
        await client.get_usage(customer_id="nobody", request_id="ab" * 32)
    with pytest.raises(CustomerNotFoundError):
        await anext(client.usage(customer_id="nobody"))


async def test_an_offset_with_seconds_is_understood(client: BillingSystemClient, customer_id: str) -> None:
    """RFC 3339 cannot write it; the time zones of the nineteenth century have it."""
    local = AN_HOUR_AGO.astimezone(timezone(timedelta(hours=1, minutes=22, seconds=45)))
    assert (await client.record_usage(**USAGE, occurred_at=local)).occurred_at == AN_HOUR_AGO
    assert (await anext(client.usage(customer_id=customer_id, start=local))).occurred_at == AN_HOUR_AGO


async def test_a_time_without_a_zone_is_refused_before_it_is_sent() -> None:
    async with BillingSystemClient(base_url="http://127.0.0.1:1") as client:
        for records in (
            client.usage(customer_id="acme", start=datetime(2026, 1, 1)),  # noqa: DTZ001 - the fault under test
            client.usage(customer_id="acme", end=datetime(2026, 1, 1)),  # noqa: DTZ001 - the fault under test
        ):
            with pytest.raises(ValidationError) as caught:
                await anext(records)
            assert (caught.value.outcome, caught.value.attempts) == ("not_sent", 0)


async def test_usage_is_read_page_by_page_with_filters(client: BillingSystemClient, customer_id: str) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    for number in range(7):
        await client.record_usage(
            customer_id=customer_id,
            service="even+&=" if number % 2 == 0 else "odd",
            units_consumed=number,
            price_per_unit=1,
            occurred_at=(AN_HOUR_AGO + timedelta(minutes=number)).astimezone(zone),
        )

    async def units(**filters: Any) -> list[int]:
        return [int(record.units_consumed) async for record in client.usage(customer_id=customer_id, **filters)]

    assert await units() == [0, 1, 2, 3, 4, 5, 6]
    assert await units(page_size=1) == await units(page_size=3) == await units(page_size=7) == [0, 1, 2, 3, 4, 5, 6]
    assert await units(service="even+&=", page_size=2) == [0, 2, 4, 6]
    start, end = AN_HOUR_AGO + timedelta(minutes=2), (AN_HOUR_AGO + timedelta(minutes=5)).astimezone(zone)
    assert await units(start=start, page_size=2) == [2, 3, 4, 5, 6]
    assert await units(end=end) == [0, 1, 2, 3, 4]
    assert await units(start=start, end=end, service="odd") == [3]


async def test_subclasses_of_numbers_and_times_are_what_they_hold(
    client: BillingSystemClient, customer_id: str
) -> None:
    class Money(Decimal):
        def __str__(self) -> str:
            return f"${super().__str__()}"

    class Stamp(datetime):
        pass

    class Level(int, Enum):
        HIGH = 3

    occurred_at = Stamp(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    record = await client.record_usage(
        customer_id=customer_id,
        service="s",
        units_consumed=Level.HIGH,
        price_per_unit=Money("0.5"),
        occurred_at=occurred_at,
    )
    assert (record.units_consumed, record.price_per_unit, record.occurred_at) == (
        Decimal(3),
        Decimal("0.5"),
        occurred_at,
    )
