"""A producer that is killed at any instruction loses nothing that was safe, and doubles nothing."""

import os
import random
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

from billing_client import BillingSystemClient
from tests.client.recorders import Hook, settle, status_of
from tests.programs import UNMEASURED
from tests.services import Service

ROUNDS = 12
LONGEST_SECONDS = 0.4
ROOT = Path(__file__).parents[3]


def killed(command: list[str], seconds: float) -> list[list[str]]:
    """What a process says until it is killed, so long after its first word."""
    environment = os.environ | UNMEASURED
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        said = first + process.stdout.read()
    return [line.split() for line in said.splitlines()]


async def test_what_was_safe_is_stored_once_however_often_the_producer_is_killed(
    service: Service, client: BillingSystemClient, customer_id: str, tmp_path: Path
) -> None:
    spool, seed = tmp_path / "usage.db", time.time_ns()
    print("seed", seed)
    chance = random.Random(seed)
    said: list[list[str]] = []
    for number in range(ROUNDS):
        command = [sys.executable, "-m", "tests.client.producer", service.url, str(spool), f"round{number}"]
        said += killed(command, chance.uniform(0, LONGEST_SECONDS))
    left, hook = status_of(spool), Hook()
    async with client.recorder(spool=spool, on_event=hook) as recorder:
        await settle(recorder)

    safe = {words[1] for words in said if words[0] == "safe"}
    records = [record async for record in client.usage(customer_id=customer_id, page_size=1_000)]
    events = [record.event_id or "" for record in records]
    assert len([words for words in said if words[0] == "open"]) == ROUNDS
    assert safe <= set(events)
    assert len(events) == len(set(events))
    assert all(
        (record.units_consumed, record.price_per_unit) == (Decimal(event.split("-")[1] + ".25"), Decimal("0.02"))
        for record, event in zip(records, events, strict=True)
    )
    # a record is new to the service, or the service knows that it was this recorder's: never somebody else's
    assert {words[0] for words in said} == {"open", "safe", "delivered"}
    assert set(hook.kinds) <= {"delivered"}
    assert recorder.counts.delivered == left.pending
    assert status_of(spool).pending == 0
