"""The blocking recorder: opened by its block or its first use, shared by threads, closed with its client."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from billing_client import RecorderEvent, SpoolInUseError, Usage, ValidationError
from billing_client.blocking import BillingClient
from billing_client.testing import FakeBillingServer, Fault
from tests.client.recorders import status_of
from tests.programs import UNMEASURED, bare_environment
from tests.services import Service

ROOT = Path(__file__).parents[3]
INTERRUPTED = """
import sys
from billing_client.blocking import BillingClient

with BillingClient(base_url=sys.argv[1], timeout=600) as client:
    try:
        client.get_customer(customer_id="acme")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
LEFT_OPEN = """
import sys
from billing_client.blocking import BillingClient

client = BillingClient(base_url=sys.argv[1])
recorder = client.recorder(spool=sys.argv[2])
recorder.record(customer_id=sys.argv[3], service="storage", units_consumed=1, price_per_unit=1)
"""


def use(customer_id: str, number: int) -> Usage:
    return Usage(
        customer_id=customer_id, service="storage", units_consumed=number, price_per_unit="0.5", event_id=f"{number}"
    )


def test_what_many_threads_record_is_delivered(blocking_client: BillingClient, customer: str, tmp_path: Path) -> None:
    events: list[RecorderEvent] = []
    with blocking_client.recorder(spool=tmp_path / "usage.db", on_event=events.append) as recorder:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(recorder.record, [use(customer, number) for number in range(100)]))
        counts = recorder.flush()
        assert (counts.recorded, counts.delivered, counts.pending) == (100, 100, 0)
        assert recorder.counts == counts
        with pytest.raises(ValidationError):
            recorder.record(customer_id=customer, service="", units_consumed=1, price_per_unit=1)
    assert recorder.counts == counts
    assert [event.kind for event in events].count("delivered") == 100
    assert blocking_client.summary(customer_id=customer).total.amount == sum(range(100)) * Decimal("0.5")
    with pytest.raises(RuntimeError, match="this recorder is closed"):
        recorder.record(use(customer, 1))


def test_without_a_block_its_first_use_opens_it_and_the_clients_close_closes_it(
    shared_service: Service, customer: str, tmp_path: Path
) -> None:
    spool = tmp_path / "usage.db"
    client = BillingClient(base_url=shared_service.url)
    recorder, unused = client.recorder(spool=spool), client.recorder(spool=tmp_path / "unused.db")
    assert not spool.exists()
    recorder.record(use(customer, 1))
    client.close()
    assert (recorder.counts.delivered, unused.counts.recorded) == (1, 0)
    assert recorder.close() == recorder.counts
    assert status_of(spool).pending == 0
    assert not (tmp_path / "unused.db").exists()


def test_a_spool_that_is_in_use_is_tried_again_at_the_next_use(
    blocking_client: BillingClient, customer: str, tmp_path: Path
) -> None:
    spool = tmp_path / "usage.db"
    second = blocking_client.recorder(spool=spool)
    with blocking_client.recorder(spool=spool), pytest.raises(SpoolInUseError):
        second.record(use(customer, 1))
    second.record(use(customer, 1))
    assert second.flush().delivered == 1


def test_ctrl_c_ends_a_call_that_waits(billing_server: FakeBillingServer) -> None:
    billing_server.misbehave(Fault.DELAY, seconds=600)
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, billing_server.url]
    environment = bare_environment() | UNMEASURED
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        while not billing_server.calls:
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        said, complaints = program.communicate(timeout=120)
    assert (program.returncode, said, complaints) == (0, "interrupted\n", "")


def test_the_end_of_a_program_closes_what_it_left_open(
    shared_service: Service, blocking_client: BillingClient, customer: str, tmp_path: Path
) -> None:
    spool = tmp_path / "usage.db"
    command = [sys.executable, "-X", "dev", "-c", LEFT_OPEN, shared_service.url, str(spool), customer]
    environment = bare_environment() | UNMEASURED
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    # asyncio's debug mode also names each step that a busy machine makes slow
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, complaints) == (0, [])
    assert status_of(spool).pending == 0
    assert blocking_client.summary(customer_id=customer).total.records == 1
