"""A producer to be killed: records usage as fast as it can, and prints the event id of each use that is safe.

usage: python -m tests.client.producer URL SPOOL NAME, where SPOOL is a file, or a folder of spools
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from billing_client import AttemptEvent, BillingSystemClient, RecorderEvent

CALLERS = 20


def say(*words: object) -> None:
    """One line in one write, so that what a kill leaves is whole."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def tell(event: RecorderEvent) -> None:
    if not isinstance(event, AttemptEvent) and event.usage is not None:
        say(event.kind, event.usage.event_id)


async def produce(url: str, name: str, place: dict[str, Any]) -> None:
    numbers = itertools.count()
    async with BillingSystemClient(base_url=url) as client, client.recorder(**place, on_event=tell) as recorder:

        async def call() -> None:
            for number in numbers:
                event_id = f"{name}-{number}"
                await recorder.record(
                    customer_id="acme",
                    service="storage",
                    units_consumed=f"{number}.25",
                    price_per_unit="0.02",
                    event_id=event_id,
                )
                say("safe", event_id)

        say("open", name)
        await asyncio.gather(*(call() for _ in range(CALLERS)))


if __name__ == "__main__":
    url, spool, name = sys.argv[1:]
    asyncio.run(produce(url, name, {"spool_dir" if Path(spool).is_dir() else "spool": spool}))
