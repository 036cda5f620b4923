"""A recorder that a module made before its process forked is opened in the children, as with gunicorn --preload."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from billing_client import BillingSystemClient
from tests.programs import UNMEASURED, bare_environment
from tests.services import Service

ROOT = Path(__file__).parents[3]
CHILDREN = 3
PRELOADED = f"""
import asyncio, os, sys
from billing_client import BillingSystemClient

url, customer, spool = sys.argv[1:]
client = BillingSystemClient(base_url=url)
recorder = client.recorder(spool_dir=spool)

async def serve(name: str) -> None:
    async with client, recorder:
        await recorder.record(
            customer_id=customer, service="s", units_consumed=1, price_per_unit=1, event_id=name
        )

children = []
for number in range({CHILDREN}):
    if (child := os.fork()) == 0:
        asyncio.run(serve(str(number)))
        sys.exit()
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_each_child_opens_it_for_itself(shared_service: Service, customer: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", PRELOADED, shared_service.url, customer, str(tmp_path)]
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        command, cwd=ROOT, env=bare_environment() | UNMEASURED, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{[0] * CHILDREN}\n", "")
    async with BillingSystemClient(base_url=shared_service.url) as client:
        stored = {record.event_id async for record in client.usage(customer_id=customer)}
    assert stored == {str(number) for number in range(CHILDREN)}
