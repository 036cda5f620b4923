"""Authentication: how API keys are checked, cached and refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import aiohttp
import asyncpg
import pytest

from billing_service.database.pool import Database
from billing_service.http.auth import NOTED_EVERY, Authenticator
from billing_service.pace import Pace
from billing_service.settings import Settings
from tests.calls import CLOCKS_AGREE, Answer, exchange, get, given_customer, is_now, post, request_head, send, usage
from tests.databases import execute
from tests.keys import bearer, given_key, id_of, revoke
from tests.services import Service, free_port, running_service

UNKNOWN = "bk_0123456789abcdef_" + "0f" * 32


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a service that asks for keys."""
    return Settings(database_url=database_url, env="production")


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def open_service(database_url: str) -> Iterator[Service]:
    """A service in development."""
    with running_service(Settings(database_url=database_url)) as service:
        yield service


def refused(answer: Answer) -> str:
    """The challenge of an answer that refuses a key."""
    detail = answer.problem("unauthenticated")["detail"]
    assert "bk_0" not in detail
    return answer.headers["WWW-Authenticate"]


async def call(http: aiohttp.ClientSession, text: str) -> Answer:
    return await send(http, "GET", "/customers", headers=bearer(text))


async def test_a_key_is_needed_and_lets_in(http: aiohttp.ClientSession, database_url: str) -> None:
    assert refused(await get(http, "/customers")) == 'Bearer realm="billing-service"'
    key = await given_key(database_url, "admin")
    assert (await call(http, key)).require(200) == {"data": [], "nextCursor": None}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_the_state_of_the_service_is_open_to_all(http: aiohttp.ClientSession, path: str) -> None:
    (await get(http, path)).require(200)


@pytest.mark.parametrize("env", ["staging", "production"])
def test_without_a_key_nothing_is_read_or_written(database_url: str, env: str) -> None:
    with running_service(Settings(database_url=database_url, env=env)) as service:  # type: ignore[arg-type]  # each is one
        for method, path in (
            ("POST", "/usage"),
            ("POST", "/usage/batch"),
            ("GET", "/usage/export"),
            ("GET", "/summary"),
        ):
            answer = exchange(service, request_head(method, path, "Content-Length: 2"), b"{}" * (method == "POST"))
            refused(answer)


async def test_in_development_a_key_may_be_left_out_but_not_be_wrong(open_service: Service, database_url: str) -> None:
    key = await given_key(database_url, "usage:read")
    async with aiohttp.ClientSession(open_service.url) as http:
        await given_customer(http)
        (await get(http, "/customers")).require(200)
        refused(await call(http, UNKNOWN))
        (await call(http, key)).problem("forbidden")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer bk_1_2",
        "Basic dXNlcjpwYXNz",
        f"Token {UNKNOWN}",
        f"Bearer {UNKNOWN}",
        "Bearer " + "x" * 9999,
    ],
)
async def test_what_is_no_key_is_told_apart_by_nothing(http: aiohttp.ClientSession, authorization: str) -> None:
    answer = await send(http, "GET", "/customers", headers={"Authorization": authorization})
    assert refused(answer) == 'Bearer realm="billing-service", error="invalid_token"'
    assert answer.body["detail"] == "The API key is not valid: it is unknown, expired or revoked."


async def test_each_character_of_a_key_counts(http: aiohttp.ClientSession, database_url: str) -> None:
    key = await given_key(database_url, "admin")
    for position in (3, 18, 20, 50, 83):
        other = "0" if key[position] != "0" else "1"
        refused(await call(http, key[:position] + other + key[position + 1 :]))
    (await call(http, key)).require(200)


async def test_two_keys_in_one_request_are_none(service: Service, database_url: str) -> None:
    key = await given_key(database_url, "admin")
    twice = [f"Authorization: Bearer {key}"] * 2
    refused(exchange(service, request_head("GET", "/customers", *twice)))
    exchange(service, request_head("GET", "/customers", f"aUTHORIZATION: bearer {key}")).require(200)


async def test_an_expired_key_is_refused_at_its_end(http: aiohttp.ClientSession, database_url: str) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=3)
    key = await given_key(database_url, "admin", expires_at=expires_at)
    while (answer := await call(http, key)).status == 200:
        assert datetime.now(UTC) < expires_at + timedelta(seconds=20), "it is still taken"
        await asyncio.sleep(0.05)
    refused(answer)
    assert datetime.now(UTC) >= expires_at - CLOCKS_AGREE


async def test_a_revocation_is_in_effect_within_seconds_on_every_process(settings: Settings) -> None:
    key = await given_key(settings.database_url, "admin")
    with running_service(settings) as one, running_service(settings) as other:
        async with aiohttp.ClientSession(one.url) as http, aiohttp.ClientSession(other.url) as elsewhere:
            looked_up = time.monotonic()
            (await call(http, key)).require(200)
            (await call(elsewhere, key)).require(200)
            await revoke(settings.database_url, key)
            revoked = time.monotonic()
            seen = (await call(http, key)).status
            if time.monotonic() < looked_up + Pace().key_seconds:
                assert seen == 200  # not each call is a statement
            while {(await call(http, key)).status, (await call(elsewhere, key)).status} != {401}:
                assert time.monotonic() < revoked + Pace().key_seconds + 20, "it is still taken"
                await asyncio.sleep(0.05)
            refused(await call(http, key))


async def test_unknown_keys_in_number_keep_one_connection_busy(http: aiohttp.ClientSession, database_url: str) -> None:
    keys = [f"bk_{number:016x}_{'0f' * 32}" for number in range(300)]
    answers = await asyncio.gather(*(call(http, key) for key in keys))
    assert {answer.status for answer in answers} == {401}
    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing-service'"
    # one for all of them, and perhaps one for each of the two tasks that look at the database now and then
    assert await execute(database_url, f"{backends} AND datname = current_database()") <= 3


async def test_without_its_database_the_service_takes_no_unseen_key() -> None:
    url = f"postgresql://billing@127.0.0.1:{free_port()}/billing"
    with running_service(Settings(database_url=url, env="production")) as service:
        async with aiohttp.ClientSession(service.url) as http:
            answers = await asyncio.gather(*(call(http, UNKNOWN) for _ in range(5)))
            for answer in answers:
                answer.problem("unavailable")
            refused(await get(http, "/customers"))


def authorization(text: str) -> bytes:
    return f"Bearer {text}".encode()


async def test_the_callers_at_hand_are_bounded(opened: Database, settings: Settings) -> None:
    callers = Authenticator(opened, key_required=True, bound=2)
    keys = [await given_key(settings.database_url, "admin", name=f"{number}") for number in range(6)]
    for _ in range(2):
        for number, key in enumerate(keys):
            assert (await callers.find(authorization(key))).name == f"{number} (bk_{id_of(key)})"
            assert len(callers._known) <= 3
    await callers.drain()


async def test_a_call_that_goes_away_takes_no_other_with_it(opened: Database, settings: Settings) -> None:
    callers = Authenticator(opened, key_required=True)
    key = await given_key(settings.database_url, "admin")
    calls = [asyncio.create_task(callers.find(authorization(key))) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    gone, *rest = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError)
    assert {caller.key_id for caller in rest if not isinstance(caller, BaseException)} == {id_of(key)}
    await callers.drain()


async def used_at(database_url: str) -> datetime | None:
    value: datetime | None = await execute(database_url, "SELECT last_used_at FROM api_keys")
    return value


async def use_once(database: Database, key: str) -> None:
    """Use a key at a process that has not seen it, and let it write down what it does after the answer."""
    callers = Authenticator(database, key_required=True)
    await callers.find(authorization(key))
    while callers._reader is not None:
        await callers.drain()


async def test_the_last_use_is_noted_once_a_minute(opened: Database, database_url: str) -> None:
    key = await given_key(database_url, "admin")
    assert await used_at(database_url) is None
    before = datetime.now(UTC)
    await use_once(opened, key)
    first = await used_at(database_url)
    assert first is not None
    assert is_now(first, since=before)
    await use_once(opened, key)
    assert await used_at(database_url) == first
    await execute(database_url, f"UPDATE api_keys SET last_used_at = now() - '{NOTED_EVERY}'::interval", "SELECT 1")
    await use_once(opened, key)
    again = await used_at(database_url)
    assert again is not None
    assert again > first


async def test_a_last_use_that_cannot_be_noted_harms_no_call(
    settings: Settings, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    key = await given_key(database_url, "admin")
    await connection.execute("ALTER TABLE api_keys ADD CONSTRAINT never CHECK (last_used_at IS NULL)")
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
            await given_customer(http)
            (await post(http, "/usage", usage())).require(201)
    assert await used_at(database_url) is None
