"""A tour of the client and its edge cases. Each step prints what it expects and what it got.

    pip install ".[examples]"
    python examples/demo.py

Every run creates its own customer, so you can run it as often as you like. It exits with 1 if a step got something else
than it expected.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

from rich.console import Console

from billing_client import (
    BillingError,
    BillingSystemClient,
    CustomerNotFoundError,
    DuplicateRecordError,
    EventIdConflictError,
    Usage,
    UsageRecord,
    ValidationError,
)

Check = Callable[[str, str, str], None]


async def attempt(call: Awaitable[UsageRecord]) -> str:
    """Make a call and describe the result."""
    try:
        record = await call
    except DuplicateRecordError as error:
        return f"DuplicateRecordError, existing: {error.existing.units_consumed} x {error.existing.price_per_unit}"
    except EventIdConflictError as error:
        differences = (f"{c.field} was {c.recorded}, now {c.submitted}" for c in error.conflicts)
        return f"EventIdConflictError: {'; '.join(differences)}"
    except ValidationError as error:
        faults = ", ".join(fault.pointer for fault in error.errors)
        return f"ValidationError by {'the service' if error.attempts else 'the client'}: {faults}"
    except CustomerNotFoundError as error:
        return f"CustomerNotFoundError, status {error.status}"
    return f"{record.outcome}: {record.units_consumed} x {record.price_per_unit} = {record.amount}"


async def show_calls(client: BillingSystemClient, customer_id: str, check: Check) -> None:
    """Record one use per call."""
    use = partial(client.record_usage, customer_id=customer_id)

    got = await attempt(use(service="storage", units_consumed="0.1", price_per_unit="0.20"))
    check("New usage; its amount is exact", "recorded: 0.1 x 0.2 = 0.02", got)

    got = await attempt(use(service="storage", units_consumed="1e-1", price_per_unit="0.2"))
    check("The same usage again, its numbers written differently", "DuplicateRecordError, existing: 0.1 x 0.2", got)

    compute = partial(use, service="compute", units_consumed=3, price_per_unit="0.04", idempotency_key=str(uuid4()))
    got = f"{await attempt(compute())}; {await attempt(compute())}"
    check("Your own retry: the same idempotency key", "recorded: 3 x 0.04 = 0.12; replayed: 3 x 0.04 = 0.12", got)

    mail = partial(use, service="mail", units_consumed=1, price_per_unit="0.001")
    got = f"{await attempt(mail(event_id='mail-1'))}; {await attempt(mail(event_id='mail-2'))}"
    check("Equal usage under two event ids", "recorded: 1 x 0.001 = 0.001; recorded: 1 x 0.001 = 0.001", got)

    got = await attempt(use(service="mail", units_consumed=2, price_per_unit="0.002", event_id="mail-1"))
    expected = "EventIdConflictError: unitsConsumed was 1, now 2; pricePerUnit was 0.001, now 0.002"
    check("An event id that comes again with other data", expected, got)

    got = await attempt(use(service="", units_consumed="none", price_per_unit="NaN"))
    expected = "ValidationError by the client: /service, /unitsConsumed, /pricePerUnit"
    check("Invalid input, which the client does not send", expected, got)

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    got = await attempt(use(service="mail", units_consumed=1, price_per_unit=1, occurred_at=tomorrow))
    check("Invalid input, which only the service can know", "ValidationError by the service: /occurredAt", got)

    got = await attempt(use(customer_id=f"{customer_id}-nobody", service="mail", units_consumed=1, price_per_unit=1))
    check("An unknown customer", "CustomerNotFoundError, status 404", got)


async def show_batches(client: BillingSystemClient, url: str, customer_id: str, check: Check) -> None:
    """Record many uses per call: one that is refused does not affect the others."""
    queue = partial(Usage, customer_id=customer_id, service="queue", price_per_unit="0.25")
    usages = [
        queue(units_consumed=4, event_id="queue-1"),
        queue(units_consumed=4, event_id="queue-1"),
        queue(units_consumed=5, event_id="queue-1"),
        queue(units_consumed=6, event_id="queue-2", occurred_at=datetime.now(UTC) + timedelta(days=1)),
        queue(units_consumed=7, event_id="queue-3", customer_id=f"{customer_id}-nobody"),
    ]
    got = ", ".join([result.outcome async for result in client.record_usages(usages, dry_run=True)])
    check("A dry run of a batch", "recordable, duplicate, conflict, rejected, rejected", got)

    got = ", ".join([result.outcome async for result in client.record_usages(usages)])
    check("The batch", "recorded, duplicate, conflict, rejected, rejected", got)

    async with first_answer_lost(url) as poor_url, BillingSystemClient(base_url=poor_url) as poor_client:
        usages[0] = queue(units_consumed=8, event_id="queue-4")
        got = ", ".join([result.outcome async for result in poor_client.record_usages(usages)])
    expected = "replayed, duplicate, conflict, rejected, rejected"
    check("A batch whose answer is lost, so that the client sends it again", expected, got)


@asynccontextmanager
async def first_answer_lost(url: str) -> AsyncIterator[str]:
    """A proxy in front of the service that drops the first answer. Yields its address."""
    service, lost = urlsplit(url), asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(service.hostname, service.port, ssl=service.scheme == "https")
        relays.create_task(carry(reader, requests))
        if not lost.is_set():
            await answers.read(1)  # the answer comes after the commit, so the usage is recorded
            lost.set()
            writer.close()
        await carry(answers, writer)

    async with (
        asyncio.TaskGroup() as relays,
        await asyncio.start_server(lambda *ends: relays.create_task(relay(*ends)), "127.0.0.1", 0) as server,
    ):
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{service.path}"


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


async def show_concurrency(client: BillingSystemClient, customer_id: str, check: Check) -> None:
    """Record the same use in many concurrent calls, then list what is stored."""
    burst = partial(client.record_usage, customer_id=customer_id, service="burst", units_consumed=9, price_per_unit=1)
    records = await asyncio.gather(*(burst(on_duplicate="return") for _ in range(50)))
    outcomes = Counter(record.outcome for record in records)
    got = f"{outcomes['recorded']} recorded, {outcomes['duplicate']} duplicate"
    check("50 concurrent calls of the same usage", "1 recorded, 49 duplicate", got)

    amounts = [record.amount async for record in client.usage(customer_id=customer_id)]
    check("All that is stored", "7 records, 12.142", f"{len(amounts)} records, {sum(amounts)}")


async def walk(url: str) -> int:
    """Run all steps. Returns how many did not go as expected."""
    console, failed = Console(highlight=False, markup=False, soft_wrap=True), 0

    def check(title: str, expected: str, got: str) -> None:
        nonlocal failed
        failed += got != expected
        console.print(title, style="bold")
        console.print(f"  expected  {expected}")
        console.print(f"  got       {got}", style="green" if got == expected else "red")

    async with BillingSystemClient(base_url=url, timeout=10, max_attempts=5) as client:
        customer = await client.create_customer(name="Demo")
        await show_calls(client, customer.id, check)
        await show_batches(client, url, customer.id, check)
        await show_concurrency(client, customer.id, check)
    console.print(
        f"Not as expected: {failed} of the steps." if failed else "Every step went as expected.", style="bold"
    )
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description="A walk through the client and its edge cases.")
    parser.add_argument("--url", default=os.environ.get("BILLING_BASE_URL", "http://127.0.0.1:3000"))
    url = parser.parse_args().url
    try:
        failed = asyncio.run(walk(url))
    except BillingError as error:
        sys.exit(f"{url}: {error.detail}. Start the service with billing-service serve, or name another with --url.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
