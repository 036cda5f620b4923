"""What was refused is kept: which of it, how much of it, and beside the recording of usage."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_client.contract.problems import invalid_input
from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.http.auth import ANYBODY
from billing_service.ledger.changes import Changes
from billing_service.ledger.refusals import CAPACITY, Refusals
from billing_service.settings import Settings
from billing_service.telemetry.metrics import Metrics
from tests.calls import get, given_customer, post, usage
from tests.databases import execute
from tests.services import HURRIED, running_service, serve_process

PROBLEM = invalid_input("/service", "is required").details
HELD_UP = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'usage_refusals'::regclass"
COUNT = "SELECT count(*) FROM usage_refusals"


async def kept(
    http: aiohttp.ClientSession, path: str, least: int = 1, holds: Callable[[list[Any]], object] = bool
) -> list[Any]:
    """The refusals of a list, once there are so many, of which something holds."""
    async with asyncio.timeout(60):
        while True:
            found: list[Any] = (await get(http, path)).require(200)["data"]
            if len(found) >= least and holds(found):
                return found
            await asyncio.sleep(0.05)


def of(*customers: str) -> Callable[[list[Any]], bool]:
    return lambda found: [each["customerId"] for each in found] == list(customers)


async def test_what_is_refused_is_kept_and_what_is_not_is_not(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    event = {"customerId": customer, "eventId": "1"}
    recorded = (await post(shared_http, "/usage", usage(**event))).require(201)
    (await post(shared_http, "/usage", usage(**event))).problem("duplicate_record")
    conflict = usage(**event, unitsConsumed="2")
    (await post(shared_http, "/usage", conflict)).problem("event_id_conflict")
    invalid = usage(customerId=customer, eventId="2", pricePerUnit="-1", more="x")
    (await post(shared_http, "/usage", invalid)).problem("validation_error", "/pricePerUnit", "/more")
    (await post(shared_http, "/usage/batch?dryRun=true", {"records": [conflict, invalid]})).require(200)
    (await post(shared_http, "/usage/batch", {"records": [usage(**event), conflict, invalid]})).require(200)

    found = await kept(shared_http, f"/refusals?customerId={customer}", 4)
    codes = ["validation_error", "event_id_conflict", "validation_error", "event_id_conflict"]
    assert [each["code"] for each in found] == codes
    assert [each["eventId"] for each in found] == ["2", "1", "2", "1"]
    assert {each["customerId"] for each in found} == {customer}
    assert [each["requestId"] for each in found] == [None, recorded["requestId"]] * 2
    assert found[1]["conflicts"] == [{"field": "unitsConsumed", "recorded": "1.5", "submitted": "2"}]
    assert sorted(error["pointer"] for error in found[0]["errors"]) == ["/more", "/pricePerUnit"]
    assert [json.loads(each["submitted"]) for each in found] == [invalid, conflict] * 2
    assert (found[0]["submittedBy"], found[0]["conflicts"], found[1]["errors"]) == (None, None, None)


async def test_usage_of_an_unknown_customer_and_what_is_no_usage(shared_http: aiohttp.ClientSession) -> None:
    (await post(shared_http, "/usage", usage(customerId="nobody at all"))).problem("customer_not_found")
    (unknown,) = await kept(shared_http, "/refusals?customerId=nobody%20at%20all")
    assert (unknown["code"], len(unknown["requestId"])) == ("customer_not_found", 64)
    for n, body in enumerate((b'{"eventId": "\\u0000", "x', b"\0\xff" * 3_000, b'{"customerId": 7}')):
        (await post(shared_http, "/usage", body)).problem("validation_error", *([""] if n < 2 else MISSING))
    texts = {'{"customerId": 7}', "\ufffd" * 1_000, '{"eventId": "\\u0000", "x'}
    path = "/refusals?code=validation_error&limit=1000"
    found = await kept(shared_http, path, 3, lambda found: texts <= {each["submitted"] for each in found})
    assert {each["customerId"] for each in found if each["submitted"] in texts} == {None}
    assert {each["eventId"] for each in found if each["submitted"] in texts} == {None}


MISSING = ("/customerId", "/pricePerUnit", "/service", "/unitsConsumed")


@pytest.mark.parametrize("element", ["[]", "{}", '"a"'])
@pytest.mark.parametrize("member", ["customerId", "eventId"])
async def test_what_is_no_id_takes_no_memory(database_url: str, member: str, element: str) -> None:
    settings = Settings(database_url=database_url)
    clock = Clock()
    noted = Refusals(Database(settings), settings, Metrics(), clock, Changes(Database(settings)))
    body = json.dumps({"customerId": "acme", "eventId": "1"} | {member: ["..."]})
    body = body.replace('"..."', ",".join([element] * 500_000))
    tracemalloc.start()
    try:
        refusal = noted._refusal(ANYBODY, PROBLEM, body.encode())
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()
    assert (refusal.customer_id, refusal.event_id) == ((None, "1") if member == "customerId" else ("acme", None))


async def test_pages_and_filters(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = [usage(customerId=customer, eventId=str(n), service="") for n in range(7)]
    (await post(shared_http, "/usage/batch", {"records": records})).require(200)
    path = f"/refusals?customerId={customer}"
    everything = await kept(shared_http, path, 7)
    assert [each["eventId"] for each in everything] == [str(n) for n in range(6, -1, -1)]
    page = (await get(shared_http, f"{path}&limit=3")).require(200)
    read = page["data"]
    while page["nextCursor"]:
        page = (await get(shared_http, f"{path}&limit=3&cursor={page['nextCursor']}")).require(200)
        read += page["data"]
    assert read == everything
    for query, count in (
        ("eventId=3", 1),
        ("code=validation_error", 7),
        ("code=event_id_conflict", 0),
        (f"requestId={'0' * 64}", 0),
        ("key=bk_0123456789abcdef", 0),
        ("from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z", 0),
    ):
        assert len((await get(shared_http, f"{path}&{query}")).require(200)["data"]) == count, query
    for query, pointer in (("key=bk_secret", "query/key"), ("requestId=1", "query/requestId")):
        (await get(shared_http, f"{path}&{query}")).problem("validation_error", pointer)
    counts = (await get(shared_http, f"/refusals/counts?customerId={customer}")).require(200)["data"]
    assert [(each["submittedBy"], each["code"], each["refusals"]) for each in counts] == [(None, "validation_error", 7)]
    assert counts[0]["lastRefusedAt"] == everything[0]["refusedAt"]


@contextmanager
def few(database_url: str, **changes: Any) -> Iterator[str]:
    """The URL of a service that keeps few refusals."""
    with running_service(Settings(database_url=database_url, **changes)) as service:
        yield service.url


async def test_the_oldest_go_first(database_url: str) -> None:
    with few(database_url, refusals_per_customer=3, refusals_kept=4) as url:
        async with aiohttp.ClientSession(url) as http:
            await given_customer(http)
            records = [usage(eventId=str(n), service="") for n in range(5)]
            (await post(http, "/usage/batch", {"records": records})).require(200)
            found = await kept(http, "/refusals?customerId=acme", holds=lambda found: len(found) == 3)
            assert [each["eventId"] for each in found] == ["4", "3", "2"]
            (await post(http, "/usage/batch", {"records": [usage(customerId=c) for c in "xyz"]})).require(200)
            await kept(http, "/refusals", 6)
    with few(database_url, refusals_per_customer=3, refusals_kept=4, refusal_days=30) as url:  # looks at all at first
        async with aiohttp.ClientSession(url) as http:
            (await post(http, "/usage", usage(customerId="w"))).problem("customer_not_found")
            await kept(http, "/refusals", holds=of("w", "z", "y", "x"))


async def test_what_is_too_old_goes(database_url: str) -> None:
    await execute(
        database_url,
        "INSERT INTO usage_refusals (customer_id, refusal_id, refused_at, code, submitted)"
        " VALUES ('acme', '01900000-0000-7000-8000-000000000000', '2024-06-10T00:00:00Z', 'validation_error', '')",
        "SELECT 1",
    )
    with few(database_url, refusal_days=1) as url:
        async with aiohttp.ClientSession(url) as http:
            assert len(await kept(http, "/refusals")) == 1
            (await post(http, "/usage", usage(customerId="w"))).problem("customer_not_found")
            await kept(http, "/refusals", holds=of("w"))


async def test_none_are_kept_where_that_is_asked_for(database_url: str) -> None:
    with few(database_url, refusal_days=0) as url:
        async with aiohttp.ClientSession(url) as http:
            (await post(http, "/usage", usage())).problem("customer_not_found")
    assert await execute(database_url, COUNT) == 0  # also after the service wrote what waited


async def test_two_processes_share_them_and_a_stop_loses_none(tmp_path: Path, database_url: str) -> None:
    with serve_process(tmp_path, database_url, "--workers", "2") as served:
        async with aiohttp.ClientSession(served.url) as http:
            for n in range(20):
                headers = {"Connection": "close"}  # so that both get some
                (await post(http, "/usage", usage(eventId=str(n)), headers)).problem("customer_not_found")
        assert served.service.terminate() == 0
    assert await execute(database_url, "SELECT count(DISTINCT event_id) FROM usage_refusals") == 20


class TestTheQueue:
    @pytest.fixture
    async def queue(self, settings: Settings) -> AsyncIterator[Refusals]:
        """Refusals of a database that is opened by the test."""
        self.metrics = Metrics()
        self.database = Database(settings)
        yield Refusals(self.database, settings, self.metrics, Clock(), Changes(self.database), HURRIED)
        await self.database.close()

    def counted(self, what: str) -> float:
        lines = self.metrics.expose().decode().splitlines()
        name = f'billing_refusals_total{{what="{what}"}}'
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def test_is_bounded_and_tells_what_was_dropped(self, queue: Refusals, database_url: str) -> None:
        await self.database.open()
        for n in range(CAPACITY + 5):
            queue.note(ANYBODY, PROBLEM, b'{"customerId": "c%d"}' % n)
        await queue.drain()
        assert await execute(database_url, COUNT) == CAPACITY
        assert (self.counted("kept"), self.counted("dropped")) == (CAPACITY, 5)

    async def test_waits_for_a_database_that_takes_nothing(self, queue: Refusals, database_url: str) -> None:
        await self.database.open()
        await execute(database_url, "ALTER TABLE usage_refusals RENAME TO hidden", "SELECT 1")
        queue.note(ANYBODY, PROBLEM, b"{}")
        await asyncio.sleep(0.2)
        await execute(database_url, "ALTER TABLE hidden RENAME TO usage_refusals", "SELECT 1")
        await queue.drain()
        assert await execute(database_url, COUNT) == 1

    async def test_keeps_what_comes_while_others_are_written(
        self, queue: Refusals, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await self.database.open()
        async with connection.transaction():
            await connection.execute("LOCK TABLE usage_refusals IN SHARE MODE")
            queue.note(ANYBODY, PROBLEM, b'{"customerId": "first"}')
            async with asyncio.timeout(30):
                while not await connection.fetchval(HELD_UP):  # noqa: ASYNC110 - no event tells of another process
                    await asyncio.sleep(0.01)
            queue.note(ANYBODY, PROBLEM, b'{"customerId": "second"}')
        await queue.drain()
        assert await execute(database_url, COUNT) == len(["first", "second"])

    async def test_does_nothing_while_nothing_is_refused(self, queue: Refusals) -> None:
        before = asyncio.all_tasks()
        queue.note(ANYBODY, invalid_input("/x", "y").details.__class__(**DUPLICATE), b"{}")
        assert asyncio.all_tasks() == before


DUPLICATE: dict[str, Any] = {"type": "", "title": "", "status": 409, "detail": "", "code": "duplicate_record"}
