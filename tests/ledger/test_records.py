"""Record outcomes: new usage, retries, duplicates and conflicts."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_client.contract.identity import event_request_id, usage_request_id
from billing_client.contract.outcomes import Decision, Submission
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Database
from billing_service.ledger.records import WARY_CALLS, UsageWriter, decide_dry_run
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.databases import execute

NOW = datetime(2026, 5, 4, 4, 2, 1, 987654, tzinfo=UTC)
CUSTOMERS = ("acme", "b", "ü/\\'\"{},NULL")


@pytest.fixture
async def database(settings: Settings, database_url: str) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    for customer_id in CUSTOMERS:
        connection = await asyncpg.connect(database_url)
        await connection.execute("INSERT INTO customers VALUES ($1, 'name', now(), now())", customer_id)
        await connection.close()
    yield database
    await database.close()


def report(event_id: str | None, key: str | None = None, **changes: Any) -> Submission:
    """A report as it comes from the wire, without its amount."""
    fields = {"customer_id": "acme", "service": "storage", "units_consumed": "1.5", "price_per_unit": "0.02"} | changes
    times = {"occurred_at": fields.pop("occurred_at", NOW), "recorded_at": NOW}
    request_id = (
        usage_request_id(*fields.values()) if event_id is None else event_request_id(fields["customer_id"], event_id)
    )
    return Submission(UsageRecord(request_id=request_id, amount="0.03", event_id=event_id, **fields, **times), key)


async def record(database: Database, ledger: UsageWriter, *reports: Submission) -> list[str]:
    return [decision.outcome for decision in await decisions(database, ledger, *reports)]


async def decisions(database: Database, ledger: UsageWriter, *reports: Submission) -> list[Decision]:
    async with database.connection() as connection:
        return await ledger.record(connection, reports)


async def test_what_was_wrongly_taken_for_new_is_recorded_once(database: Database, settings: Settings) -> None:
    ledger = UsageWriter()
    assert await record(database, ledger, *(report(str(n)) for n in range(20))) == ["recorded"] * 20
    mixed = [report(str(n)) for n in range(10, 30)]
    assert await record(database, UsageWriter(), *mixed) == ["duplicate"] * 10 + ["recorded"] * 10
    assert await record(database, ledger, *mixed) == ["duplicate"] * 20
    found = await verify_ledger(settings)
    assert (found.records, found.differences) == (30, [])


async def test_after_a_duplicate_more_are_expected_for_a_while(database: Database, database_url: str) -> None:
    """What is taken for new is inserted by a transaction within the one that adds it up."""
    ledger = UsageWriter()
    taken_for_new = """SELECT usage_records.xmin <> usage_rollups.xmin FROM usage_records
        JOIN usage_rollups USING (customer_id, service) WHERE bucket_minutes = 15 AND service = 'service {}'"""

    async def is_taken_for_new(number: int) -> bool:
        two = [report(f"{name}{number}", service=f"service {number}") for name in "ab"]
        assert await record(database, ledger, *two) == ["recorded", "recorded"]
        return bool(await execute(database_url, taken_for_new.format(number)))

    assert await is_taken_for_new(0)
    assert await record(database, ledger, report("new"), report("a0", service="service 0")) == ["recorded", "duplicate"]
    expected = [False] * WARY_CALLS + [True]
    assert [await is_taken_for_new(number) for number in range(1, WARY_CALLS + 2)] == expected


async def test_every_text_and_time_is_stored_as_it_came(database: Database) -> None:
    draw = random.Random(3)
    texts = ["NULL", "null", '"', "\\", "\\N", "{a,b}", "ß", "\U0001f4a9", "'", " ", "a b", "\u2028", "0"]
    reports = [
        report(
            draw.choice([None, f"{number}{draw.choice(texts)}"]),
            draw.choice([None, draw.choice(texts)]),
            customer_id=draw.choice(CUSTOMERS),
            service=draw.choice(texts),
            units_consumed=str(number),
            price_per_unit=draw.choice(["0", "0.000000000000000001", "9" * 37]),
            occurred_at=draw.choice([NOW, NOW - timedelta(days=draw.randrange(10_000), microseconds=1)]),
        )
        for number in range(1, 200)
    ]
    for chunk in (reports[:1], reports[1:2], reports[2:30], reports[30:]):
        assert await record(database, UsageWriter(), *chunk) == ["recorded"] * len(chunk)
    async with database.connection() as connection:
        stored = [decision.record for decision in await decide_dry_run(connection, reports)]
    for one, kept in zip(reports, stored, strict=True):
        assert kept is not None
        assert {name: getattr(kept, name) for name in kept.__struct_fields__ if name != "amount"} == {
            name: getattr(one.record, name) for name in kept.__struct_fields__ if name != "amount"
        }
    keyed = [report_ for report_ in reports if report_.idempotency_key is not None]
    assert set(await record(database, UsageWriter(), *keyed)) == {"replayed"}


async def test_what_comes_alone_gets_every_outcome(database: Database, settings: Settings) -> None:
    ledger = UsageWriter()
    at = NOW - timedelta(minutes=10)  # in the quarter of an hour before, of the same three hours
    assert await record(database, ledger, report("1", "key")) == ["recorded"]
    assert await record(database, ledger, report("2", occurred_at=at, units_consumed="0.25")) == ["recorded"]
    assert await record(database, ledger, report("1", "key")) == ["replayed"]
    assert await record(database, ledger, report("1")) == ["duplicate"]
    assert await record(database, ledger, report("1", service="compute")) == ["conflict"]
    assert await record(database, ledger, report("3", customer_id="nobody")) == ["rejected"]
    found = await verify_ledger(settings)
    assert (found.records, found.rollups, found.differences) == (2, 3, [])


async def test_any_order_of_new_and_old_is_told_apart(database: Database, settings: Settings) -> None:
    draw = random.Random(8)
    ledger, stored = UsageWriter(), set[str]()
    for _ in range(60):
        likely = draw.choice([0, 0, 1])  # mostly all new, as in life
        reports = [report(f"{draw.randrange(10**9)}") for _ in range(draw.randint(1, 12))]
        reports += [report(id_) for id_ in draw.sample(sorted(stored), min(likely * 5, len(stored)))]
        draw.shuffle(reports)
        expected = ["duplicate" if one.record.event_id in stored else "recorded" for one in reports]
        assert await record(database, ledger, *reports) == expected
        stored |= {str(one.record.event_id) for one in reports}
    found = await verify_ledger(settings)
    assert (found.records, found.differences) == (len(stored), [])


async def test_repeated_calls_are_looked_for_first_and_decided_alike(database: Database, settings: Settings) -> None:
    writer = UsageWriter()
    rounds = [
        (("1", "2"), ["recorded"] * 2),
        (("1", "2"), ["duplicate"] * 2),
        (("2", "1", "1"), ["duplicate"] * 3),
        (("1", "3", "2", "3", "4"), ["duplicate", "recorded", "duplicate", "duplicate", "recorded"]),
        (("4", "3"), ["duplicate"] * 2),
        (("5", "4"), ["recorded", "duplicate"]),  # one that is new goes alone
        (("5", "4"), ["duplicate"] * 2),
        (("6", "7"), ["recorded"] * 2),
    ]
    async with database.connection() as connection:
        for events, outcomes in rounds:
            submissions = [report(event) for event in events]
            assert [decision.outcome for decision in await writer.record(connection, submissions)] == outcomes
        submissions = [report(event, customer_id="nobody") for event in ("1", "2")]
        assert [decision.outcome for decision in await writer.record(connection, submissions)] == ["rejected"] * 2
        conflicts = await writer.record(connection, [report("1", service="other"), report("7")])
        assert [decision.outcome for decision in conflicts] == ["conflict", "duplicate"]
    assert (await verify_ledger(settings)).differences == []
