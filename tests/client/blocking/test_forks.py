"""The blocking client in forked processes: each begins anew, and harms no other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from billing_client.blocking import BillingClient
from tests.client.blocking.forking import CHILDREN
from tests.programs import UNMEASURED, bare_environment
from tests.services import Service

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_parent_and_children_record_with_a_client_that_the_parent_used(
    shared_service: Service, blocking_client: BillingClient, customer: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.client.blocking.forking"]
    done = subprocess.run(
        [*command, shared_service.url, customer, str(tmp_path)],
        cwd=ROOT,
        env=bare_environment() | UNMEASURED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said.count("SpoolInUseError") == CHILDREN
    assert said.count("an iterator of the process that this one was forked from; make another") == CHILDREN
    assert str([0] * CHILDREN) in said
    stored = {record.event_id for record in blocking_client.usage(customer_id=customer)}
    names = ["parent/before", "parent/after", *(f"child-{number}" for number in range(CHILDREN))]
    expected = {f"{name}/{way}" for name in names for way in ("call", "recorder")}
    assert stored == expected | {"parent/later/call", "parent/later/recorder"}
