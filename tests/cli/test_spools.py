"""`billing spool`"""

import asyncio
import json
import re
from pathlib import Path

import pytest

from billing_client import BillingSystemClient
from tests.calls import exchange, request_head
from tests.cli import billing, billing_beside, billing_process, failure, given_customer
from tests.client.answers import client_of, problem, record_all, usage
from tests.client.misbehaving import misbehaving, silent
from tests.client.recorders import away, kept, records_of, settle, status_of
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
        for command in COMMANDS[1:]:
            assert "in use by another recorder" in failure(await billing_beside("spool", *command, spool), 2)


COMMANDS = [("status",), ("flush",), ("redrive",), ("discard", "--all"), ("resend", "--since", "2026-01-01")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_that_is_no_spool_exits_with_2(command: tuple[str, ...], tmp_path: Path) -> None:
    assert "there is no such file" in failure(billing("spool", *command, tmp_path / "usage.db"), 2)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "usage.csv").write_text("customer,service\n" * 100)
    assert "not a database" in failure(billing("spool", *command, tmp_path / "usage.csv"), 2)


def test_a_folder_of_spools_is_shown_mended_and_delivered(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    first, second, other = (tmp_path / name for name in ("usage-1.db", "usage-2.db", "other.db"))
    asyncio.run(refused(service, first))
    asyncio.run(kept(second, usage(4), usage(5), usage(6)))
    asyncio.run(kept(other, usage(7)))

    heading, *rows, total = billing("spool", "status", tmp_path).stdout.splitlines()
    assert heading.split() == ["file", "pending", "dead", "delivered", "bytes", "oldest", "pending"]
    assert [row.split()[:4] for row in rows] == [[str(first), "2", "1", "0"], [str(second), "3", "0", "0"]]
    assert total.split()[:4] == ["total", "5", "1", "0"]
    held = map(json.loads, billing("spool", "status", tmp_path, other, "--json").stdout.splitlines())
    assert {each["file"]: each["pending"] for each in held} == {str(first): 2, str(second): 3, str(other): 1}
    (letter,) = map(json.loads, billing("spool", "status", tmp_path, "--dead", "--json").stdout.splitlines())
    assert letter["file"] == str(first)

    given_customer(service, "later")
    assert billing("spool", "redrive", tmp_path).stdout == "1 dead letters are in line again\n"
    done = billing("spool", "flush", tmp_path, "--base-url", service.url)
    assert (done.returncode, done.stdout) == (0, "6 delivered, 0 duplicates, 0 refused, 0 pending\n")
    assert sorted(stored(service, "acme")) == [f"event-{number}" for number in (2, 3, 4, 5, 6)]
    assert status_of(other).pending == 1


async def test_what_a_recorder_of_a_folder_holds_is_left_to_it(tmp_path: Path) -> None:
    await kept(tmp_path / "usage-dead.db", usage(1))
    async with away() as client, client.recorder(spool=tmp_path / "usage-alive.db", close_timeout=0) as recorder:
        await recorder.record(usage(2))
        for command in COMMANDS[2:]:
            done = await billing_beside("spool", *command, tmp_path)
            assert (done.returncode, done.stdout[:2]) == (2, "0 ")
            assert done.stderr.startswith("billing: 1 spools are in use by recorders")
            assert str(tmp_path / "usage-alive.db") in done.stderr
        async with misbehaving(record_all) as server:
            done = await billing_beside("spool", "flush", tmp_path, BILLING_BASE_URL=server.url)
        assert (done.returncode, done.stdout) == (0, "1 delivered, 0 duplicates, 0 refused, 0 pending\n")
        assert done.stderr == f"billing: {tmp_path / 'usage-alive.db'} is left to the recorder that uses it\n"


def test_a_folder_without_spools_is_no_failure(tmp_path: Path) -> None:
    for command in COMMANDS:
        done = billing("spool", *command, tmp_path)
        assert done.returncode == 0
        assert "holds no spools" in done.stderr


def test_dead_letters_are_deleted_by_name_or_all(service: Service, tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    asyncio.run(refused(service, spool))
    for choice in ((), ("--all", "--request-id", "x")):
        assert "--request-id for those to delete, or --all" in billing("spool", "discard", spool, *choice).stderr
    (letter,) = map(json.loads, billing("spool", "status", spool, "--dead", "--json").stdout.splitlines())
    assert billing("spool", "discard", spool, "--request-id", "another").stdout == "0 dead letters are deleted\n"
    done = billing("spool", "discard", spool, "--request-id", letter["requestId"], "--json")
    assert json.loads(done.stdout) == {"discarded": 1}
    assert (status_of(spool).pending, status_of(spool).dead) == (2, 0)


async def test_what_was_delivered_is_sent_again(tmp_path: Path) -> None:
    spool = tmp_path / "usage.db"
    async with misbehaving(record_all) as server, client_of(server) as client:
        async with client.recorder(spool=spool, keep_delivered="24h") as recorder:
            await recorder.record_many([usage(1), usage(2)])
        later = await billing_beside("spool", "resend", spool, "--since", "2999-01-01")
        assert later.stdout == "0 delivered records are in line again\n"
        assert "delivered  2  kept" in (await billing_beside("spool", "status", spool)).stdout
        done = await billing_beside("spool", "resend", spool, "--since", "2020-01-01T00:00:00+02:00", "--json")
        assert json.loads(done.stdout) == {"resent": 2}
        await billing_beside("spool", "flush", spool, BILLING_BASE_URL=server.url)
    assert [len(records_of(request)) for request in server.requests] == [2, 2]
    keys = {request.header("Idempotency-Key") for request in server.requests}
    assert len(keys) == 1


def test_a_file_that_is_no_spool_is_in_no_others_way(tmp_path: Path) -> None:
    for name in ("usage-2.db", "usage-4.db"):
        asyncio.run(kept(tmp_path / name, usage(1)))
    (tmp_path / "usage-1.db").write_bytes(b"no database" * 1_000)
    (tmp_path / "usage-3.db").mkdir()
    status = billing("spool", "status", tmp_path)
    assert (status.returncode, status.stdout.count("/usage-")) == (2, 2)
    assert "usage-1.db: file is not a database" in status.stderr
    redriven = billing("spool", "redrive", tmp_path)
    assert (redriven.returncode, redriven.stdout) == (2, "0 dead letters are in line again\n")
    assert "usage-1.db: file is not a database" in redriven.stderr
