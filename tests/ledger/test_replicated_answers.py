"""An answer that says "it is stored" comes when that is as durable as `synchronous_commit` says, whichever it is."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aiohttp
import pytest

from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, key, post, send, stored, usage
from tests.faults.machines.fronts import fronts_of, missing_program
from tests.replication import Replication, replicating_servers, url_of
from tests.services import running_service

TIMEOUT = 1.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
REPLICATING = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
Call = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Answer]]
Prepare = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Call]]


@pytest.fixture(scope="module")
def servers() -> Iterator[Replication]:
    """A primary and its standby; commits wait for the standby."""
    with replicating_servers() as servers:
        servers.primary.replicate_synchronously()
        yield servers


@pytest.fixture
def replicated_url(servers: Replication) -> str:
    """The URL of this test's own database, migrated, on the primary."""
    servers.standby.start()
    return url_of(servers.primary.address, database=servers.primary.create_database())


def single(name: str, idempotency_key: str, **changes: Any) -> Call:
    return lambda http: post(http, "/usage", usage(eventId=name, **changes), key(idempotency_key))


def batch(idempotency_key: str, *names: str) -> Call:
    records = [usage(eventId=name) for name in names]
    return lambda http: post(http, "/usage/batch", {"records": records}, key(idempotency_key))


def customer(idempotency_key: str) -> Call:
    return lambda http: post(http, "/customers", {"id": "new", "name": "New"}, key(idempotency_key))


def void(request_id: str) -> Call:
    return lambda http: post(http, f"/customers/acme/usage/{request_id}/void", {"reason": "a test"})


def rename(http: aiohttp.ClientSession) -> Coroutine[Any, Any, Answer]:
    return send(http, "PATCH", "/customers/acme", {"name": "Renamed"})


def issue(http: aiohttp.ClientSession) -> Coroutine[Any, Any, Answer]:
    return post(http, "/customers/acme/statements", {"month": "2026-01"})


def issue_all(http: aiohttp.ClientSession) -> Coroutine[Any, Any, Answer]:
    return post(http, "/statements", {"month": "2026-01"})


def outcomes(answer: Answer) -> list[str]:
    return [result["outcome"] for result in answer.require(200)["results"]]


async def refused(http: aiohttp.ClientSession, *calls: Call) -> None:
    for answer in await asyncio.gather(*(call(http) for call in calls)):
        answer.problem("unavailable")
        assert int(answer.headers["Retry-After"]) > 0


async def test_what_only_the_primary_has_is_not_acknowledged(servers: Replication, replicated_url: str) -> None:
    """Nor after a restart, which makes all of it visible."""
    impatient = Settings(database_url=replicated_url, database_timeout=TIMEOUT)
    with running_service(impatient) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            voided = (await post(http, "/usage", usage(eventId="voided"))).require(201)["requestId"]
            servers.standby.stop()
            first = [single("1", "1"), batch("2", "2", "3"), batch("4", "4"), customer("5"), void(voided), issue]
            for call in first:  # one by one, since they add to the same sums
                await refused(http, call)
            assert len(await stored(http, "acme")) == 5  # it is there, on the primary
            others = [
                single("1", "another call"),
                single("1", "1", unitsConsumed="7"),
                batch("another call", "2", "3"),
                batch("another call", "4"),
                customer("another call"),
                issue_all,
            ]
            for _ in range(2):  # after repeats the service expects more of them
                await refused(http, *first, *others)
            servers.primary.kill()
            servers.primary.start()
            await refused(http, *first, *others)
            assert (await get(http, f"/customers/acme/usage/{voided}")).require(200)["voidedAt"]
            dry_run = await post(http, "/usage/batch?dryRun=true", {"records": [usage(eventId="1")]})
            assert outcomes(dry_run) == ["duplicate"]

            servers.standby.start()
            servers.primary.await_value(REPLICATING, 1)
            answers = [await call(http) for call in (*first, *others)]
            assert [answers[0].replayed, answers[3].replayed] == [True, True]
            assert [outcomes(answers[n]) for n in (1, 2)] == [["replayed", "replayed"], ["replayed"]]
            assert answers[4].require(200)["voidedAt"]
            assert (answers[5].replayed, answers[5].require(201)["number"]) == (True, 1)
            answers[6].problem("duplicate_record")
            answers[7].problem("event_id_conflict")
            assert [outcomes(answers[n]) for n in (8, 9)] == [["duplicate", "duplicate"], ["duplicate"]]
            answers[10].problem("customer_exists")
            assert answers[11].require(200)["unchanged"] == 1
            assert len(await stored(http, "acme")) == 5


async def test_what_is_found_before_anything_is_inserted_waits_too(servers: Replication, replicated_url: str) -> None:
    """After a batch that was all there the service looks first."""
    with running_service(Settings(database_url=replicated_url, database_timeout=TIMEOUT)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            for key_, outcome in (("1", "recorded"), ("2", "duplicate")):
                assert outcomes(await batch(key_, "1", "2")(http)) == [outcome] * 2
            servers.standby.stop()
            for _ in range(2):
                await refused(http, batch("3", "1", "2"))


async def of_record(http: aiohttp.ClientSession) -> Call:
    """Void a record."""
    return void((await post(http, "/usage", usage(eventId="to void"))).require(201)["requestId"])


async def of_month(_: aiohttp.ClientSession) -> Call:
    """Issue a statement."""
    return lambda http: post(http, "/customers/acme/statements", {"month": "2025-01"})


async def of_new_key(_: aiohttp.ClientSession) -> Call:
    """Create an API key."""
    return lambda http: post(http, "/keys", {"name": "new", "scopes": ["usage:write"]})


async def of_old_key(http: aiohttp.ClientSession) -> Call:
    """Revoke an API key."""
    key_id = (await (await of_new_key(http))(http)).require(201)["id"]
    return lambda http: send(http, "DELETE", f"/keys/{key_id}")


def always(call: Call) -> Prepare:
    async def prepare(_: aiohttp.ClientSession) -> Call:
        return call

    return prepare


WRITES = {
    "record": always(single("1", "1")),
    "batch": always(batch("1", "1", "2")),
    "customer": always(customer("1")),
    "rename": always(rename),
    "void": of_record,
    "statement": of_month,
    "new key": of_new_key,
    "revoked key": of_old_key,
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_wait_that_was_cancelled_is_not_told_as_success(
    servers: Replication, replicated_url: str, write: str
) -> None:
    """Whatever is written. Nor is what is found written."""
    await cancel_waits_of(servers, Settings(database_url=replicated_url, database_timeout=60), write)


@pytest.mark.skipif(missing_program("pgbouncer") is not None, reason="pgbouncer is not installed")
async def test_a_wait_that_was_cancelled_is_told_through_pgbouncer(servers: Replication, replicated_url: str) -> None:
    with fronts_of("pgbouncer transaction", servers.primary.folder.parent, [servers.primary.port]) as [pooler]:
        url = url_of(f"127.0.0.1:{pooler.port}", database=replicated_url.rpartition("/")[2])
        await cancel_waits_of(servers, Settings(database_url=url, pgbouncer=True, database_timeout=60), "record")


async def cancel_waits_of(servers: Replication, settings: Settings, write: str) -> None:
    """Write while the standby is away and the wait for it is cancelled; twice, and once more when it is back."""
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            call = await WRITES[write](http)
            servers.standby.stop()
            for _ in range(2):
                answering = asyncio.create_task(call(http))
                await asyncio.to_thread(servers.primary.await_value, WAITING, 1)
                assert await asyncio.to_thread(servers.primary.execute, CANCEL) == 1
                (await answering).problem("unavailable")
            answering = asyncio.create_task(call(http))
            await asyncio.to_thread(servers.primary.await_value, WAITING, 1)
            servers.standby.start()
            assert (await answering).status in (200, 201)


async def test_what_may_be_lost_does_not_wait(servers: Replication, replicated_url: str) -> None:
    """A refusal is kept while the standby is away."""
    with running_service(Settings(database_url=replicated_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            servers.standby.stop()
            (await post(http, "/usage", usage(pricePerUnit="-1"))).problem("validation_error", "/pricePerUnit")
            async with asyncio.timeout(30):
                while not (await get(http, "/refusals")).require(200)["data"]:  # noqa: ASYNC110 - no event tells of another process
                    await asyncio.sleep(0.05)
