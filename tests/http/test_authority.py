"""What a key can change, what it learns about data it may not read, and whose call counts as a retry."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest

from billing_service.ledger.api_keys import Scope
from tests.calls import Answer, get, given_customer, post, send, usage
from tests.keys import bearer, given_key, id_of
from tests.services import Service

Client = Callable[..., Awaitable[aiohttp.ClientSession]]


@pytest.fixture
async def client_of(service: Service) -> AsyncIterator[Client]:
    """Makes a client with a new key of these scopes; `key` is its name in records."""
    async with AsyncExitStack() as stack:

        async def make(*scopes: str) -> aiohttp.ClientSession:
            key = await given_key(service.settings.database_url, *scopes)  # type: ignore[arg-type]  # each is a scope
            session = aiohttp.ClientSession(service.url, headers=bearer(key) | {"X-Request-Id": f"bk_{id_of(key)}"})
            return await stack.enter_async_context(session)

        yield make


def key_of(client: aiohttp.ClientSession) -> str:
    return client.headers["X-Request-Id"]


@pytest.fixture
async def admin(client_of: Client) -> aiohttp.ClientSession:
    """A client that may do everything; customer `acme` is there."""
    client = await client_of("admin")
    await given_customer(client)
    return client


async def test_a_producer_voids_nothing(client_of: Client, admin: aiohttp.ClientSession) -> None:
    producer = await client_of("usage:write", "usage:read", "customers:write")
    record = (await post(producer, "/usage", usage(eventId="1"))).require(201)
    path = f"/customers/acme/usage/{record['requestId']}"
    (await post(producer, f"{path}/void", {"reason": "a test"})).problem("forbidden")
    assert (await get(producer, path)).require(200)["voidedAt"] is None


async def test_who_has_no_scope_for_it_makes_no_credit(client_of: Client, admin: aiohttp.ClientSession) -> None:
    producer = await client_of("usage:write", "usage:read")
    credit = usage(eventId="1", unitsConsumed="-1.50")
    problem = (await post(producer, "/usage", credit)).problem("validation_error", "/unitsConsumed")
    assert "usage:credit" in problem["detail"]
    body = {"records": [credit, usage(eventId="2")]}
    results = (await post(producer, "/usage/batch", body)).require(200)["results"]
    assert [result["outcome"] for result in results] == ["rejected", "recorded"]
    assert results[0]["problem"]["code"] == "validation_error"
    (await post(producer, "/usage", usage(eventId="0", unitsConsumed="-0.0"))).require(201)
    support = await client_of("usage:write", "usage:credit")
    assert (await post(support, "/usage", credit)).require(201)["unitsConsumed"] == "-1.5"
    assert (await post(admin, "/usage", usage(eventId="3", unitsConsumed=-2))).require(201)["amount"] == "-0.04"
    (await post(await client_of("usage:credit"), "/usage", credit)).problem("forbidden")


async def test_who_is_billed_lowers_no_bill_by_being_an_admin(service: Service, admin: aiohttp.ClientSession) -> None:
    """Each of these a key that is bound to a customer may do only if it names the scope."""
    record = (await post(admin, "/usage", usage(eventId="1", occurredAt="2026-01-02T03:04:05Z"))).require(201)
    calls: dict[Scope, Callable[[dict[str, str]], Awaitable[Answer]]] = {
        "usage:void": lambda key: post(
            admin, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "a test"}, key
        ),
        "statements:issue": lambda key: post(admin, "/customers/acme/statements", {"month": "2026-01"}, key),
        "usage:credit": lambda key: post(admin, "/usage", usage(eventId="2", unitsConsumed="-1"), key),
    }
    url = service.settings.database_url
    bound = bearer(await given_key(url, "admin", customer_id="acme"))
    (await send(admin, "GET", "/customers/acme/usage", None, bound)).require(200)
    (await post(admin, "/usage", usage(eventId="3"), bound)).require(201)
    for scope, call in calls.items():
        refused = (await call(bound)).body
        assert refused["code"] == ("validation_error" if scope == "usage:credit" else "forbidden")
        assert scope in refused["detail"]
    for scope, call in calls.items():
        named = bearer(await given_key(url, "admin", scope, customer_id="acme"))
        assert (await call(named)).status in (200, 201)


async def test_a_void_is_signed_by_its_key_and_names_whom_it_is_for(
    client_of: Client, admin: aiohttp.ClientSession
) -> None:
    record = (await post(admin, "/usage", usage(eventId="1"))).require(201)
    path = f"/customers/acme/usage/{record['requestId']}/void"
    support = await client_of("usage:void")
    (await post(support, path, {"reason": "a test", "voidedBy": "somebody else"})).problem(
        "validation_error", "/voidedBy"
    )
    voided = (await post(support, path, {"reason": "a test", "voidedFor": "Ada of support"})).require(200)
    assert (voided["voidedBy"], voided["voidedFor"]) == (key_of(support), "Ada of support")


async def test_a_record_names_the_key_that_recorded_it(client_of: Client, admin: aiohttp.ClientSession) -> None:
    producer, other = await client_of("usage:write"), await client_of("usage:write")
    single = (await post(producer, "/usage", usage(eventId="1"))).require(201)
    batch = await post(other, "/usage/batch", {"records": [usage(eventId=f"{n}") for n in range(2, 5)]})
    results = [single, *(result["record"] for result in batch.require(200)["results"])]
    assert [record["recordedBy"] for record in results] == [key_of(producer), *[key_of(other)] * 3]
    stored = (await get(admin, "/customers/acme/usage")).require(200)["data"]
    assert {record["eventId"]: record["recordedBy"] for record in stored} == {
        "1": key_of(producer),
        **dict.fromkeys(("2", "3", "4"), key_of(other)),
    }


@pytest.mark.parametrize("in_batch", [False, True])
async def test_a_retry_is_known_by_its_caller_too(
    client_of: Client, admin: aiohttp.ClientSession, in_batch: bool
) -> None:
    """Two producers that both send the key `1` with equal usage do not hide each other's use as a replay."""
    one, other = await client_of("usage:write", "usage:read"), await client_of("usage:write", "usage:read")

    async def report(client: aiohttp.ClientSession) -> str:
        body, headers = usage(eventId=None), {"Idempotency-Key": "1"}
        if in_batch:
            answer = await send(client, "POST", "/usage/batch", {"records": [body]}, headers)
            outcome: str = answer.require(200)["results"][0]["outcome"]
            return outcome
        answer = await send(client, "POST", "/usage", body, headers)
        return "replayed" if answer.headers.get("Idempotent-Replayed") else answer.body.get("code", "recorded")

    assert await report(one) == "recorded"
    assert await report(one) == "replayed"
    assert await report(other) in ("duplicate", "duplicate_record")


async def test_a_customer_is_created_again_by_the_caller_that_created_it_alone(client_of: Client) -> None:
    one, other = await client_of("customers:write"), await client_of("customers:write")
    body, headers = {"id": "acme", "name": "Acme"}, {"Idempotency-Key": "1"}
    (await send(one, "POST", "/customers", body, headers)).require(201)
    assert (await send(one, "POST", "/customers", body, headers)).require(201)
    (await send(other, "POST", "/customers", body, headers)).problem("customer_exists")


class TestWhoMayNotRead:
    """A key without `usage:read` that guesses event ids learns no price, no amount and no time."""

    @pytest.fixture
    async def guesser(self, client_of: Client, admin: aiohttp.ClientSession) -> aiohttp.ClientSession:
        secret = usage(eventId="guessed", service="secret", unitsConsumed="777", pricePerUnit="0.123")
        (await post(admin, "/usage", secret | {"occurredAt": "2026-01-02T03:04:05Z"})).require(201)
        return await client_of("usage:write")

    @pytest.mark.parametrize("query", ["", "?dryRun=true"])
    async def test_learns_nothing_by_a_conflict(self, guesser: aiohttp.ClientSession, query: str) -> None:
        guess = usage(eventId="guessed", service="mine", unitsConsumed="1", pricePerUnit="2")
        single = (await post(guesser, "/usage", guess)).problem("event_id_conflict")
        batch = await post(guesser, f"/usage/batch{query}", {"records": [guess]})
        for problem in (single, batch.require(200)["results"][0]["problem"]):
            assert problem["conflicts"] == [
                {"field": "service", "submitted": "mine"},
                {"field": "unitsConsumed", "submitted": "1"},
                {"field": "pricePerUnit", "submitted": "2"},
            ]
            existing = problem["existing"]
            assert (existing["service"], existing["unitsConsumed"], existing["amount"]) == ("mine", "1", "2")
            for secret in ("secret", "777", "0.123", "2026-01-02"):
                assert secret not in str(problem)

    async def test_learns_no_dimension_by_a_conflict(
        self, guesser: aiohttp.ClientSession, admin: aiohttp.ClientSession
    ) -> None:
        stored = usage(eventId="dimensions", dimensions={"secret": "777", "region": "secret", "model": "large"})
        (await post(admin, "/usage", stored)).require(201)
        guess = usage(eventId="dimensions", dimensions={"region": "eu", "mine": "1", "model": "large"})
        problem = (await post(guesser, "/usage", guess)).problem("event_id_conflict")
        assert problem["conflicts"] == [
            {"field": "dimensions.mine", "submitted": "1"},
            {"field": "dimensions.region", "submitted": "eu"},
            {"field": "dimensions", "submitted": ""},
        ]
        assert problem["existing"]["dimensions"] == guess["dimensions"]
        assert "secret" not in str(problem)

    async def test_learns_nothing_by_a_duplicate(self, guesser: aiohttp.ClientSession) -> None:
        guess = usage(eventId="guessed", service="secret", unitsConsumed="777", pricePerUnit="0.123")
        problem = (await post(guesser, "/usage", guess)).problem("duplicate_record")
        assert "2026-01-02" not in str(problem)
        assert problem["existing"]["recordedBy"] == key_of(guesser)

    async def test_is_told_the_record_of_its_own_call(self, guesser: aiohttp.ClientSession) -> None:
        first, again = [
            (await send(guesser, "POST", "/usage", usage(eventId="own"), {"Idempotency-Key": "k"})).require(201)
            for _ in range(2)
        ]
        assert first == again


async def test_who_may_read_is_told_what_is_stored(client_of: Client, admin: aiohttp.ClientSession) -> None:
    stored = (await post(admin, "/usage", usage(eventId="1", unitsConsumed="3"))).require(201)
    reader = await client_of("usage:write", "usage:read")
    problem = (await post(reader, "/usage", usage(eventId="1", unitsConsumed="4"))).problem("event_id_conflict")
    assert problem["existing"] == stored
    assert problem["conflicts"] == [{"field": "unitsConsumed", "recorded": "3", "submitted": "4"}]
