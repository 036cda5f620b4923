"""The check sees each way in which a promise can be broken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from billing_client import BillingSystemClient
from tests.databases import execute
from tests.faults.check import Check, Findings
from tests.faults.journal import Acknowledged, Doubted, Entry, Intended, Journal, Kept, Refused
from tests.faults.producer import Kind, Task, acknowledged
from tests.faults.usages import CUSTOMERS, made_up_line
from tests.services import Service

RECORDS = 20
INSERT_ANOTHER = (
    "INSERT INTO usage_records SELECT customer_id, sha256('another'), event_id, service, units_consumed,"
    " price_per_unit, occurred_at, recorded_at, idempotency_key FROM usage_records WHERE event_id = '0/1'"
)
Look = Callable[[], Awaitable[Findings]]


@pytest.fixture
def kind() -> Kind:
    return "single"


@pytest.fixture
def task(tmp_path: Path, kind: Kind) -> Task:
    return Task(index=0, kind=kind, seed=1, records=RECORDS, base_url="", folder=str(tmp_path))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[BillingSystemClient]:
    async with BillingSystemClient(base_url=service.url) as client:
        yield client


@pytest.fixture
async def told(task: Task, client: BillingSystemClient) -> list[Acknowledged]:
    """What a producer was told that reported all it meant to; it journaled what it meant."""
    intended = [Intended(number, made_up_line(task.seed, task.index, number), f"{number}") for number in range(RECORDS)]
    write(task, *intended)
    for customer in CUSTOMERS:
        await client.create_customer(name="Name", customer_id=customer)
    outcomes = [outcome async for outcome in client.record_usages(each.line.usage() for each in intended)]
    return [acknowledged(number, outcome.record) for number, outcome in enumerate(outcomes) if outcome.record]


@pytest.fixture
def look(task: Task, service: Service, client: BillingSystemClient, told: list[Acknowledged]) -> Look:
    """Run the check on things as they are then."""
    return lambda: Check([task]).hold_against(str(service.settings.database_url), client)


def write(task: Task, *entries: Entry) -> None:
    journal = Journal(task.journal)
    journal.write(entries)
    journal.close()


@pytest.mark.parametrize("kind", ["single", "spool"])
async def test_nothing_is_found_where_all_is_well(task: Task, look: Look, told: list[Acknowledged], kind: Kind) -> None:
    write(task, *([Kept(list(range(RECORDS)))] if kind == "spool" else []), *told)
    assert await look() == Findings(records=RECORDS, acknowledged=RECORDS)


async def test_what_was_neither_kept_nor_acknowledged_is_unknown(
    task: Task, look: Look, told: list[Acknowledged]
) -> None:
    write(task, *told[2:])
    with task.journal.open("ab") as file:
        file.write(b'["acknowledged",1,"recorded"')  # a crash cut it off
    found = await look()
    assert (found.unknown, found.acknowledged) == (2, RECORDS - 2)


async def test_a_refusal_is_told(task: Task, look: Look, told: list[Acknowledged]) -> None:
    write(task, *told[1:], Refused(0, "UnexpectedResponseError: 500"))
    found = await look()
    assert (found.unknown, found.refused) == (1, 1)
    assert "500" in found.examples["refused"][0]


@pytest.mark.parametrize(
    ("kind", "is_doubted", "expected"),
    [("single", True, 1), ("batch", True, 0), ("batch", False, 1), ("spool", True, 0), ("spool", False, 1)],
)
async def test_a_duplicate_is_expected_only_of_what_was_in_doubt_and_had_no_key(
    task: Task, look: Look, told: list[Acknowledged], is_doubted: bool, expected: int
) -> None:
    write(task, *([Doubted("a test")] if is_doubted else []), *told[1:], replace(told[0], outcome="duplicate"))
    assert (await look()).unexpected_duplicates == expected


@pytest.mark.parametrize("member", ["units", "price", "amount"])
async def test_other_numbers_in_an_answer_are_seen(
    task: Task, look: Look, told: list[Acknowledged], member: str
) -> None:
    write(task, *told[1:], replace(told[0], **{member: getattr(told[0], member) + Decimal("1e-18")}))
    assert (await look()).changed == 1


@pytest.mark.parametrize(
    ("tampering", "found_as", "differences"),
    [
        ("DELETE FROM usage_records WHERE event_id = '0/1'", "lost", 2),
        ("UPDATE usage_records SET units_consumed = units_consumed + 1e-18 WHERE event_id = '0/1'", "changed", 2),
        ("UPDATE usage_records SET occurred_at = occurred_at + interval '1 us' WHERE event_id = '0/1'", "changed", 0),
        (INSERT_ANOTHER, "doubled", 1),
        ("UPDATE usage_rollups SET amount = amount + 1e-18 WHERE records > 0", None, len(CUSTOMERS)),
    ],
)
async def test_tampering_is_seen(
    task: Task, service: Service, look: Look, told: list[Acknowledged], tampering: str, found_as: str, differences: int
) -> None:
    write(task, *told)
    await execute(str(service.settings.database_url), tampering, "SELECT 1")
    found = await look()
    counts = {name: getattr(found, name) for name in ("lost", "changed", "doubled", "unexpected_duplicates", "unknown")}
    assert counts == {name: int(name == found_as) for name in counts}
    assert len(found.differences) == differences
