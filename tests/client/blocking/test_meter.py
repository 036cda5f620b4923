"""What a `with` block used is recorded once, however the block ends."""

import inspect
import logging
from collections.abc import Generator
from decimal import Decimal
from typing import get_overloads

import pytest

from billing_client import SpoolFullError, Usage, UsageRecord
from billing_client import metering as async_metering
from billing_client.blocking import BillingClient, UsageRecorder, meter


def recorded(client: BillingClient, recorder: UsageRecorder, customer: str) -> list[UsageRecord]:
    """What is stored once all is delivered."""
    assert recorder.flush(60).pending == 0
    return list(client.usage(customer_id=customer))


def pieces(recorder: UsageRecorder, customer: str, event_id: str) -> Generator[int, None, None]:
    with meter(recorder, customer_id=customer, service="pieces", price_per_unit="0.5", event_id=event_id) as metered:
        for number in range(5):
            metered.add("1.5")
            yield number


def fail(recorder: UsageRecorder, error: BaseException, *uses: Usage) -> None:
    with meter(recorder) as metered:
        metered.record(*uses)
        raise error


def test_a_block_is_recorded_whether_it_ends_raises_or_is_closed(blocking_client: BillingClient, customer: str) -> None:
    with blocking_client.recorder() as recorder:
        assert list(pieces(recorder, customer, "ends")) == [0, 1, 2, 3, 4]
        closed = pieces(recorder, customer, "closed")
        assert [next(closed), next(closed)] == [0, 1]
        closed.close()
        use = Usage(customer_id=customer, service="pieces", units_consumed=1, price_per_unit=1)
        with pytest.raises(LookupError, match="of the block"):
            fail(recorder, LookupError("of the block"), use)
        with meter(recorder, customer_id=customer, service="nothing", price_per_unit=1):
            pass
        records = recorded(blocking_client, recorder, customer)
    assert {(record.event_id, record.units_consumed) for record in records} == {
        ("ends", Decimal("7.5")),
        ("closed", Decimal(3)),
        (None, Decimal(1)),
    }


def test_a_block_that_cannot_be_recorded_raises_unless_it_was_interrupted(
    blocking_client: BillingClient, customer: str, caplog: pytest.LogCaptureFixture
) -> None:
    uses = [Usage(customer_id=customer, service="pieces", units_consumed=n, price_per_unit=1) for n in (1, 2)]
    with blocking_client.recorder(on_full="raise", max_records=1) as recorder:
        with pytest.raises(SpoolFullError) as raised:
            fail(recorder, LookupError("of the block"), *uses)
        assert isinstance(raised.value.__context__, LookupError)
        with caplog.at_level(logging.ERROR), pytest.raises(KeyboardInterrupt):
            fail(recorder, KeyboardInterrupt(), *uses)
        assert "usage was not recorded, and its block was ended by KeyboardInterrupt()" in caplog.text
        assert customer in caplog.text
        assert recorder.counts.recorded == 0


def test_it_takes_what_the_async_one_takes() -> None:
    theirs, ours = get_overloads(async_metering.meter), get_overloads(meter)
    assert len(theirs) == len(ours) == 2
    for their, our in zip(theirs, ours, strict=True):
        assert _fields(their) == _fields(our)


def _fields(function: object) -> list[inspect.Parameter]:
    assert callable(function)
    return [each for each in inspect.signature(function).parameters.values() if each.name != "recorder"]
