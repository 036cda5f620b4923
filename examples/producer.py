"""A producer that loses no usage: each use is written to disk first and delivered in the background.

    pip install .
    python examples/producer.py --spool usage.db --uses 1000

Stop the service while it runs, or kill this program and run it again: everything that was on disk is delivered, and
counts once. It exits with 1 if something is left in the spool.
"""

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from billing_client import (
    AttemptEvent,
    BillingError,
    BillingSystemClient,
    CustomerExistsError,
    RecorderCounts,
    RecorderEvent,
    SpoolError,
    TransportError,
)


def tell(event: RecorderEvent) -> None:
    """Print every event except plain deliveries."""
    match event:
        case AttemptEvent(error=BillingError() as error):
            print(f"sent again in {event.wait:.1f} s: {error.detail}")
        case AttemptEvent():
            print(f"answered: {event.records} uses")
        case _ if event.kind != "delivered":
            print(f"{event.kind}: {event.usage}")


async def produce(url: str, spool: Path, uses: int) -> RecorderCounts:
    """Record `uses` uses of the customer `acme`. Returns the counts of the recorder."""
    run = uuid4()
    async with BillingSystemClient(base_url=url, timeout=2) as client:
        with suppress(CustomerExistsError, TransportError):  # usage can be recorded while the service is away
            await client.create_customer(name="Acme", customer_id="acme")
        async with client.recorder(spool=spool, on_event=tell, close_timeout=5) as recorder:
            print(f"left by an earlier run: {recorder.counts.pending} uses")
            for number in range(uses):
                await recorder.record(
                    customer_id="acme",
                    service="storage",
                    units_consumed="1.5",
                    price_per_unit="0.02",
                    event_id=f"{run}/{number}",
                )
            print(f"safe in {spool}: {uses} uses")
    return recorder.counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Records usage that survives the end of this program.")
    parser.add_argument("--url", default=os.environ.get("BILLING_BASE_URL", "http://127.0.0.1:3000"))
    parser.add_argument("--spool", type=Path, default=Path("usage.db"))
    parser.add_argument("--uses", type=int, default=1_000)
    arguments = parser.parse_args()
    try:
        counts = asyncio.run(produce(arguments.url, arguments.spool, arguments.uses))
    except SpoolError as error:
        sys.exit(error.detail)
    print(f"delivered: {counts.delivered} uses; left for the next run: {counts.pending}")
    sys.exit(1 if counts.pending or counts.dead else 0)


if __name__ == "__main__":
    main()
