"""What a block used is recorded once, however the block ends."""

import asyncio
import logging
from decimal import Decimal
from pathlib import Path

import pytest

from billing_client import BillingSystemClient, SpoolFullError, Usage, UsageRecord, UsageRecorder, ValidationError
from billing_client.metering import Meter, meter


async def recorded(client: BillingSystemClient, recorder: UsageRecorder, customer: str) -> list[UsageRecord]:
    """What is stored once all is delivered."""
    assert (await recorder.flush(60)).pending == 0
    return [record async for record in client.usage(customer_id=customer)]


def line(customer: str, kind: str, units: int = 7) -> Usage:
    return Usage(
        customer_id=customer, service="tokens", units_consumed=units, price_per_unit="0.01", event_id=f"call/{kind}"
    )


async def test_the_units_of_a_block_are_one_use(shared_client: BillingSystemClient, customer: str) -> None:
    async with shared_client.recorder() as recorder:
        for units in ((1, "0.5", Decimal("0.000000000000000001")), (2,), ()):
            async with meter(
                recorder,
                customer_id=customer,
                service="tokens",
                price_per_unit="0.5",
                dimensions={"model": "large"},
            ) as metered:
                for each in units:
                    metered.add(each)
        records = await recorded(shared_client, recorder, customer)
    assert sorted(record.units_consumed for record in records) == [Decimal("1.500000000000000001"), 2]
    assert len({record.event_id for record in records}) == 2
    assert all(record.event_id and record.dimensions == {"model": "large"} for record in records)


async def test_a_block_that_raises_is_recorded(shared_client: BillingSystemClient, customer: str) -> None:
    async with shared_client.recorder() as recorder:

        async def work() -> None:
            async with meter(
                recorder, customer_id=customer, service="tokens", price_per_unit=1, event_id="call"
            ) as metered:
                metered.add(3)
                raise LookupError("of the block")

        with pytest.raises(LookupError, match="of the block"):
            await work()
        (record,) = await recorded(shared_client, recorder, customer)
    assert (record.units_consumed, record.event_id) == (Decimal(3), "call")


async def test_a_block_that_is_cancelled_again_and_again_is_recorded(
    shared_client: BillingSystemClient, customer: str, tmp_path: Path
) -> None:
    async with shared_client.recorder(spool=tmp_path / "usage.db") as recorder:

        async def work() -> None:
            async with meter(recorder, customer_id=customer, service="tokens", price_per_unit=1) as metered:
                metered.add(3)
                await asyncio.sleep(600)

        tasks = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(0)
        while not all(task.done() for task in tasks):  # as a cancel scope of anyio does
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        assert all(task.cancelled() for task in tasks)
        assert len(await recorded(shared_client, recorder, customer)) == 10


async def test_the_uses_of_a_block_are_recorded_as_one_or_not_at_all(
    shared_client: BillingSystemClient, customer: str
) -> None:
    async with shared_client.recorder() as recorder:
        with pytest.raises(ValidationError):
            async with meter(recorder) as metered:
                metered.record(line(customer, "input"), line(customer, "output", units=10**38))
        assert recorder.counts.recorded == 0
        async with meter(recorder) as metered:
            metered.record(line(customer, "input"))
            metered.record(line(customer, "output"))
        records = await recorded(shared_client, recorder, customer)
    assert {record.event_id for record in records} == {"call/input", "call/output"}


async def test_a_cancelled_block_that_cannot_be_recorded_stays_cancelled_and_the_log_has_its_usage(
    shared_client: BillingSystemClient, customer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with shared_client.recorder(on_full="raise", max_records=1) as recorder:
        begun = asyncio.Event()

        async def work() -> None:
            async with meter(recorder) as metered:
                metered.record(line(customer, "input"), line(customer, "output"))
                begun.set()
                await asyncio.sleep(600)

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError), caplog.at_level(logging.ERROR):
            await task
        assert "usage was not recorded, and its caller was cancelled" in caplog.text
        assert "call/output" in caplog.text
        with pytest.raises(SpoolFullError):
            async with meter(recorder) as metered:
                metered.record(line(customer, "input"), line(customer, "output"))


async def test_what_is_no_number_is_refused_and_the_rest_is_kept(
    shared_client: BillingSystemClient, customer: str
) -> None:
    async with shared_client.recorder() as recorder:
        async with meter(recorder, customer_id=customer, service="tokens", price_per_unit=1) as metered:
            metered.add(1)
            for units in (0.5, True, "many", "NaN", None):
                with pytest.raises(ValueError, match="units are"):
                    metered.add(units)  # type: ignore[arg-type]  # that is what is tried
        (record,) = await recorded(shared_client, recorder, customer)
    assert record.units_consumed == 1
    with pytest.raises(RuntimeError, match="a service and a price"):
        Meter(None).add(1)
