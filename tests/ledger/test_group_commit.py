"""Group commit: many waiting calls share one statement, each returns after its commit, none is lost."""

import asyncio
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_client.contract.decoding import decode_usage
from billing_client.contract.outcomes import Decision, Submission
from billing_service.database.pool import Database, DatabaseUnavailableError
from billing_service.ledger.group_commit import GROUP_RECORDS, GroupCommit, _Queue
from billing_service.ledger.records import KnownCustomers
from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, json_request, key, post, read_answer, stored, usage
from tests.databases import execute
from tests.services import ServeProcess, Service, get_status, running_service, serve_process

CREATE_CUSTOMER = "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())"
PATIENCE = 5.0
ACTIVITY = (
    "SELECT coalesce(to_regclass('citus_stat_activity'), 'pg_stat_activity')::text"  # of all nodes, or of the one
)
WAITING = "SELECT count(*) FROM {} WHERE datname = current_database() AND wait_event_type = 'Lock'"


@asynccontextmanager
async def writes_held_up(connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """No usage can be recorded, though read, within the block."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE usage_records IN SHARE MODE")
        yield


async def until_a_write_waits(url: str, count: int = 1) -> None:
    """Wait until so many statements are held up."""
    async with asyncio.timeout(30):
        waiting = WAITING.format(await execute(url, ACTIVITY))
        while await execute(url, waiting) < count:  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(0.01)


def report(event: str, idempotency_key: str | None = None) -> Submission:
    body = json.dumps(usage(eventId=event)).encode()
    return Submission(decode_usage(body, datetime.now(UTC)), idempotency_key)


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database of a recorder under test, with the customer it records for."""
    await execute(str(settings.database_url), CREATE_CUSTOMER, "SELECT 1")
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


async def test_what_comes_while_a_commit_is_under_way_goes_together_into_the_next(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=10_000)
    async with writes_held_up(connection):
        calls = [asyncio.create_task(recorder.record(report("first")))]
        await until_a_write_waits(database_url)
        calls += [asyncio.create_task(recorder.record(report(f"{n}"))) for n in range(GROUP_RECORDS + 1)]
        await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
    decisions = await asyncio.gather(*calls)
    assert {decision.outcome for decision in decisions} == {"recorded"}
    commits = await connection.fetch("SELECT count(*) AS size FROM usage_records GROUP BY xmin::text ORDER BY size")
    assert [row["size"] for row in commits] == [1, 1, GROUP_RECORDS]


async def test_of_equal_reports_in_one_group_the_first_is_recorded(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    async with writes_held_up(connection):
        calls = [asyncio.create_task(recorder.record(report("other")))]
        await until_a_write_waits(database_url)
        names = ("mine", None, "mine", "theirs")
        calls += [asyncio.create_task(recorder.record(report("1", name))) for name in names]
        await asyncio.sleep(0)
    decisions = await asyncio.gather(*calls)
    assert [decision.outcome for decision in decisions] == [
        "recorded",
        "recorded",
        "duplicate",
        "replayed",
        "duplicate",
    ]
    assert {decision.record for decision in decisions[1:]} == {decisions[1].record}


async def test_a_batch_tells_that_it_is_sent_where_all_seems_new_and_is_decided_after_its_commit(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    is_sent, is_sent_again = asyncio.Event(), asyncio.Event()
    async with writes_held_up(connection):
        call = asyncio.create_task(recorder.record_batch([report("1"), report("2")], is_sent))
        await until_a_write_waits(database_url)
        assert is_sent.is_set()
        assert not call.done()
    assert [decision.outcome for decision in await call] == ["recorded", "recorded"]
    await recorder.record_batch([report("2"), report("3")])
    decisions = await recorder.record_batch([report("2"), report("4")], is_sent_again)
    assert [decision.outcome for decision in decisions] == ["duplicate", "recorded"]
    assert not is_sent_again.is_set()


async def test_one_more_than_may_wait_is_refused_at_once(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    small = Settings(database_url=settings.database_url, queue_records=3)
    with running_service(small) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            async with writes_held_up(connection):
                calls = [asyncio.create_task(post(http, "/usage", usage(eventId="first")))]
                await until_a_write_waits(database_url)
                calls += [
                    asyncio.create_task(post(http, "/usage", usage(eventId=f"{n}"), key(f"{n}"))) for n in range(20)
                ]
                refused = await first_answers(calls, 17)
                for answer in refused:
                    answer.problem("unavailable")
                    assert int(answer.headers["Retry-After"]) > 0
                (await get(http, "/healthz")).require(200)
            accepted = [answer for answer in await asyncio.gather(*calls) if answer.status == 201]
            assert len(accepted) == 4
            assert len(await stored(http, "acme")) == 4
            for n in range(20):  # nothing that was refused is lost: its caller retries
                (await post(http, "/usage", usage(eventId=f"{n}"), key(f"{n}"))).require(201)
            assert len(await stored(http, "acme")) == 21


async def first_answers(calls: list["asyncio.Task[Answer]"], count: int) -> list[Answer]:
    """The answers of so many calls, as soon as they have one while the others wait."""
    async with asyncio.timeout(30):
        while sum(call.done() for call in calls) < count:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return [call.result() for call in calls if call.done()]


async def test_a_queue_that_was_full_takes_again_what_comes_later(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=1)
    async with writes_held_up(connection):
        first = asyncio.create_task(recorder.record(report("1")))
        await until_a_write_waits(database_url)
        second = asyncio.create_task(recorder.record(report("2")))
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailableError, match="full"):
            await recorder.record(report("3"))
    assert [(await call).outcome for call in (first, second)] == ["recorded", "recorded"]
    assert (await recorder.record(report("3"))).outcome == "recorded"


async def test_a_caller_that_goes_away_loses_nothing_and_harms_nobody(
    service: Service, http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await given_customer(http)
    async with writes_held_up(connection):
        first = asyncio.create_task(post(http, "/usage", usage(eventId="first")))
        await until_a_write_waits(database_url)
        for n in range(3):
            body = json.dumps(usage(eventId=f"gone {n}")).encode()
            gone = connect(service)
            gone.sendall(json_request("/usage", body, f"Idempotency-Key: gone-{n}"))
            await asyncio.sleep(0.05)  # its report has reached the queue
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, n % 2))  # reset, or closed
            gone.close()
        stays = asyncio.create_task(post(http, "/usage", usage(eventId="stays")))
        await asyncio.sleep(0.05)
    (await first).require(201)
    (await stays).require(201)
    async with asyncio.timeout(30):
        while len(await stored(http, "acme")) < 5:
            pass
    assert (await post(http, "/usage", usage(eventId="gone 0"), key("gone-0"))).replayed


async def test_a_cancelled_call_is_recorded_with_its_group(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    async with writes_held_up(connection):
        calls = [asyncio.create_task(recorder.record(report(f"{n}"))) for n in range(3)]
        await until_a_write_waits(database_url)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
    async with asyncio.timeout(30):
        assert [(await call).outcome for call in calls[1:]] == ["recorded", "recorded"]
        assert (await recorder.record(report("0"))).outcome == "duplicate"


async def test_a_fault_reaches_every_call_of_its_group_and_none_after(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    await connection.execute("ALTER TABLE usage_records RENAME TO gone")
    calls = [asyncio.create_task(recorder.record(report(f"{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    async with asyncio.timeout(30):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert [type(results[n]) for n in (0, 2)] == [asyncpg.UndefinedTableError] * 2
    await connection.execute("ALTER TABLE gone RENAME TO usage_records")
    assert (await recorder.record(report("0"))).outcome == "recorded"


async def test_a_record_that_the_database_refuses_fails_alone(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    await connection.execute("ALTER TABLE usage_records ADD CONSTRAINT no_poison CHECK (event_id <> 'poison')")
    async with writes_held_up(connection):
        calls = [asyncio.create_task(recorder.record(report("first")))]
        await until_a_write_waits(database_url)
        calls += [asyncio.create_task(recorder.record(report(event))) for event in ("before", "poison", "after")]
        await asyncio.sleep(0)
    first, before, poison, after = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(poison, asyncpg.CheckViolationError)
    assert [decision.outcome for decision in (first, before, after) if isinstance(decision, Decision)] == [
        "recorded"
    ] * 3


async def test_what_waits_behind_a_database_that_fell_silent_is_told_with_the_first(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    impatient = Database(Settings(database_url=database_url, database_timeout=PATIENCE))
    await impatient.open()
    recorder = GroupCommit(impatient, queue_records=10_000)
    async with writes_held_up(connection):
        started = time.monotonic()
        calls = [asyncio.create_task(recorder.record(report(f"{n}"))) for n in range(3 * GROUP_RECORDS)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 2 * PATIENCE  # and not so long for each group
    assert {type(result) for result in results} == {DatabaseUnavailableError}
    assert (await recorder.record(report("0"))).outcome == "recorded"
    await impatient.close()


async def test_a_database_that_falls_silent_while_records_are_written_one_by_one_holds_up_none_for_long(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    impatient = Database(Settings(database_url=database_url, database_timeout=PATIENCE))
    await impatient.open()
    recorder = GroupCommit(impatient, queue_records=100)
    reports = sorted((report(f"{n}") for n in range(10)), key=lambda report: report.record.request_id)
    poison, *slow = (str(each.record.event_id) for each in reports)  # poison is the first that is written
    await connection.execute(f"ALTER TABLE usage_records ADD CONSTRAINT no_poison CHECK (event_id <> '{poison}')")
    await connection.execute(
        f"ALTER TABLE usage_records ADD CONSTRAINT wait CHECK (event_id <> ALL('{{{','.join(slow)}}}')"
        " OR pg_sleep(60) IS NOT NULL)"
    )
    started = time.monotonic()
    calls = [asyncio.create_task(recorder.record(each)) for each in reports]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < 2 * PATIENCE
    assert [type(result) for result in results] == [asyncpg.CheckViolationError] + [DatabaseUnavailableError] * 9
    await impatient.close()


async def test_a_drain_does_not_wait_for_ever(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    async with writes_held_up(connection):
        call = asyncio.create_task(recorder.record(report("1")))
        await until_a_write_waits(database_url)
        await recorder.drain(0.1)
        assert not call.done()
    assert (await call).outcome == "recorded"


async def test_drain_waits_until_all_that_was_taken_is_answered(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    await recorder.drain(30)  # there is nothing to wait for
    async with writes_held_up(connection):
        calls = [asyncio.create_task(recorder.record(report(f"{n}"))) for n in range(3)]
        await until_a_write_waits(database_url)
        drain = asyncio.create_task(recorder.drain(30))
        await asyncio.wait([drain], timeout=0.1)
        assert not drain.done()
    await drain
    assert all(call.done() for call in calls)
    assert await connection.fetchval("SELECT count(*) FROM usage_records") == 3


async def test_a_stop_answers_and_records_what_was_taken(
    tmp_path: Path, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await execute(database_url, CREATE_CUSTOMER, "SELECT 1")
    with serve_process(tmp_path, database_url) as served, connect(served) as stays, connect(served) as leaves:
        async with writes_held_up(connection):
            stays.sendall(json_request("/usage", json.dumps(usage(eventId="stays")).encode()))
            await until_a_write_waits(database_url)
            leaves.sendall(json_request("/usage", json.dumps(usage(eventId="leaves")).encode()))
            await asyncio.sleep(0.1)  # it has reached the queue
            leaves.close()
            served.service.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while await asyncio.to_thread(get_status, served.host, served.port, "/healthz") is not None:
                    pass
            assert served.service.process.poll() is None
        record = read_answer(stays).require(201)
        assert served.service.wait() == 0
    events = await connection.fetch("SELECT event_id FROM usage_records ORDER BY event_id")
    assert [row["event_id"] for row in events] == ["leaves", "stays"]
    assert record["eventId"] == "stays"


async def test_a_stop_that_may_not_wait_records_what_was_taken_and_says_that_it_is_unknown(
    tmp_path: Path, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await execute(database_url, CREATE_CUSTOMER, "SELECT 1")
    hurry = {"BILLING_SHUTDOWN_TIMEOUT": "1"}
    with serve_process(tmp_path, database_url, environment=hurry) as served:
        with connect(served) as first, connect(served) as second:
            async with writes_held_up(connection):
                first.sendall(json_request("/usage", json.dumps(usage(eventId="1")).encode()))
                await until_a_write_waits(database_url)
                second.sendall(json_request("/usage", json.dumps(usage(eventId="2")).encode()))
                await asyncio.sleep(0.1)  # it has reached the queue
                served.service.process.send_signal(signal.SIGTERM)
                for caller in (first, second):
                    (await asyncio.to_thread(read_answer, caller)).problem("unavailable")
        assert served.service.wait() == 0
    assert await connection.fetchval("SELECT count(*) FROM usage_records") == 2


def connect(served: Service | ServeProcess) -> socket.socket:
    return socket.create_connection((served.host, served.port), timeout=60)


async def test_customers_are_looked_up_again_when_the_database_was_put_back(
    opened: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    recorder = GroupCommit(opened, queue_records=100)
    assert (await recorder.record(report("1"))).outcome == "recorded"
    await connection.execute("TRUNCATE customers CASCADE")
    assert [decision.outcome for decision in await recorder.dry_run_batch([report("2")])] == ["rejected"]
    assert (await recorder.record(report("2"))).outcome == "rejected"
    await connection.execute(CREATE_CUSTOMER)
    assert (await recorder.record(report("2"))).outcome == "recorded"


async def test_forgetting_customers_fails_no_call_that_is_looking_some_up(opened: Database) -> None:
    customers = KnownCustomers()
    async with opened.connection() as connection:
        assert await customers.among(connection, {"acme", "nobody"}) == {"acme"}
        looking_up = asyncio.create_task(customers.among(connection, {"acme", "nobody"}))
        await asyncio.sleep(0)
        customers.forget()
        assert await looking_up == {"acme"}


async def test_the_bound_on_known_customers_forgets_none_that_is_asked_for(opened: Database) -> None:
    customers = KnownCustomers(bound=0)
    async with opened.connection() as connection:
        assert await customers.among(connection, {"acme"}) == {"acme"}
        await connection.execute("INSERT INTO customers VALUES ('other', 'Other', now(), now())")
        assert await customers.among(connection, {"acme", "other", "nobody"}) == {"acme", "other"}


@pytest.mark.parametrize(("linger", "sizes"), [(0.0, [1, 1, 1]), (1.0, [1, 2])])
async def test_a_writer_that_lingers_takes_what_comes_right_after_a_group(linger: float, sizes: list[int]) -> None:
    loop = asyncio.get_running_loop()
    first, second, third = ((report(name), loop.create_future(), None) for name in "abc")
    taken: list[int] = []

    async def take(group: list[Any]) -> None:
        taken.append(len(group))
        if group == [first]:
            queue.add(second)
            await asyncio.sleep(0.001)
            loop.call_soon(queue.add, third)

    queue = _Queue(take, linger)
    queue.add(first)
    while queue.task is not None:
        await asyncio.wait([queue.task])
    assert taken == sizes


async def test_a_batch_of_nothing_that_can_be_recorded_is_answered(opened: Database) -> None:
    assert await GroupCommit(opened, queue_records=10_000).record_batch([]) == []
