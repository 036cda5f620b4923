"""`billing spool`"""

import asyncio
import json
import re
from pathlib import Path

import pytest

from billing_client import BillingSystemClient
from tests.calls import exchange, request_head
from tests.cli import billing, billing_beside, billing_process, failure, given_customer
from tests.client.answers import problem, usage
from tests.client.misbehaving import misbehaving, silent
from tests.client.recorders import away, kept, settle, status_of
from tests.services import Service, free_port


async def refused(service: Service, spool: Path) -> None:
    """A spool with one dead letter, of a customer `later`, and two pending records of `acme`."""
    async with BillingSystemClient(base_url=service.url) as client, client.recorder(spool=spool) as recorder:
        await recorder.record(usage(1, customer_id="later", units_consumed="1e-18"))
        await settle(recorder)
    await kept(spool, usage(2), usage(3))


def stored(service: Service, customer_id: str) -> list[str]:
    data = exchange(service, request_head("GET", f"/customers/{customer_id}/usage")).require(200)["data"]
    return [record["eventId"] for record in data]


def test_what_a_spool_holds(service: Service, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    asyncio.run(refused(service, spool))
    shown = billing_process("spool", "status", spool)
    assert (shown.returncode, shown.stderr) == (0, "")
    figures = dict(re.findall(r"^(\w+) +(\d+) ", shown.stdout, re.MULTILINE))
    assert (figures["pending"], figures["dead"]) == ("2", "1")
    held = json.loads(billing("spool", "status", spool, "--json").stdout)
    assert (held["pending"], held["dead"], str(held["bytes"])) == (2, 1, figures["bytes"])
    assert held["oldest"][:19] in shown.stdout


def test_the_dead_letters_of_a_spool(service: Service, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    asyncio.run(refused(service, spool))
    (letter,) = map(json.loads, billing("spool", "status", spool, "--dead", "--json").stdout.splitlines())
    assert letter["usage"]["unitsConsumed"] == "0.000000000000000001"
    assert letter["problem"]["code"] == "customer_not_found"
    heading, row = billing("spool", "status", spool, "--dead").stdout.splitlines()
    assert heading.split()[:3] == ["request", "id", "customer"]
    assert row.split()[:5] == [letter["requestId"], "later", "storage", "0.000000000000000001", "0.02"]
    assert "There is no customer 'later'." in row


def test_flush_and_redrive_deliver_what_is_there(service: Service, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    given_customer(service)
    asyncio.run(refused(service, spool))
    done = billing_process("spool", "flush", spool, "--base-url", service.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 delivered, 0 duplicates, 0 refused, 0 pending\n", "")
    assert stored(service, "acme") == ["event-2", "event-3"]

    assert billing("spool", "redrive", spool, "--request-id", "another").stdout == "0 dead letters are in line again\n"
    assert json.loads(billing("spool", "redrive", spool, "--json").stdout) == {"revived": 1}
    again = billing("spool", "flush", spool, "--base-url", service.url)
    assert (again.returncode, again.stdout) == (1, "0 delivered, 0 duplicates, 1 refused, 0 pending\n")
    assert again.stderr == f"billing: 1 records were refused: billing spool status {spool} --dead\n"

    given_customer(service, "later")
    assert billing_process("spool", "redrive", spool).stdout == "1 dead letters are in line again\n"
    done = billing("spool", "flush", spool, "--base-url", service.url, "--json")
    assert json.loads(done.stdout) == {"recorded": 0, "delivered": 1, "duplicates": 0, "dead": 0, "pending": 0}
    assert stored(service, "later") == ["event-1"]


def test_flush_says_why_something_is_left(tmp_path: Path) -> None:
    spool, url = tmp_path / "usage.db", f"http://127.0.0.1:{free_port()}"
    asyncio.run(kept(spool, usage(1)))
    left = billing("spool", "flush", spool, "--base-url", url, "--timeout", "1")
    assert (left.returncode, left.stdout) == (5, "0 delivered, 0 duplicates, 0 refused, 1 pending\n")
    assert re.fullmatch(rf"billing: .* 1 records are still in {spool}; run it again\n", left.stderr)
    assert status_of(spool).pending == 1


@pytest.mark.parametrize("step", [problem(401, "unauthenticated"), silent], ids=["no key", "no answer"])
async def test_the_exit_code_of_a_flush_says_what_was_in_the_way(step: object, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    await kept(spool, usage(1))
    async with misbehaving(step) as server:  # type: ignore[arg-type]  # pytest's parameters have no type
        done = await billing_beside("spool", "flush", spool, "--timeout", "2", BILLING_BASE_URL=server.url)
    assert done.returncode == (6 if step is silent else 4), done
    assert done.stderr.endswith(f"1 records are still in {spool}; run it again\n")


async def test_a_spool_in_use_can_be_looked_at_and_no_more(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with away() as client, client.recorder(spool=spool, close_timeout=0) as recorder:
        await recorder.record(usage(1))
        shown = await billing_beside("spool", "status", spool, "--json")
        assert json.loads(shown.stdout)["pending"] == 1
        for command in ("flush", "redrive"):
            assert "in use by another recorder" in failure(await billing_beside("spool", command, spool), 2)


@pytest.mark.parametrize("command", ["status", "flush", "redrive"])
def test_a_file_that_is_no_spool_exits_with_2(command: str, tmp_path: Path) -> None:
    assert "there is no such file" in failure(billing("spool", command, tmp_path / "usage.db"), 2)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "usage.csv").write_text("customer,service\n" * 100)
    assert "not a database" in failure(billing("spool", command, tmp_path / "usage.csv"), 2)
