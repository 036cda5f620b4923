"""Scopes: each operation accepts the scope in its description and no other."""

import json
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from billing_client import AuthenticationError, BillingSystemClient, PermissionDeniedError, Usage
from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from billing_service.ledger.api_keys import SCOPES
from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, post, send, usage
from tests.databases import execute
from tests.keys import bearer, given_key, id_of
from tests.operations import Target, example, name_of, send_example
from tests.services import Service

GUARDED = [operation for operation in OPERATIONS if operation.scope is not None]


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a service that asks for keys."""
    return Settings(database_url=database_url, env="production")


@pytest.fixture
async def admin(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that may do everything."""
    key = await given_key(service.settings.database_url, "admin")
    async with aiohttp.ClientSession(service.url, headers=bearer(key)) as session:
        yield session


def call(service: Service, operation: Operation, key: str) -> Answer:
    """Call an operation about a customer that is not there."""
    return send_example(service, example(operation, Target("nobody")), f"Authorization: Bearer {key}")


@pytest.mark.parametrize("operation", GUARDED, ids=name_of)
async def test_each_operation_takes_the_scope_that_it_names(service: Service, operation: Operation) -> None:
    assert operation.scope is not None
    others = [scope for scope in SCOPES if scope not in (operation.scope, "admin")]
    lacking = await given_key(service.settings.database_url, *others)
    answer = call(service, operation, lacking)
    if operation.error_page is None:
        assert operation.scope in answer.problem("forbidden")["detail"]
    else:
        assert (answer.status, f"lacks the scope {operation.scope}." in answer.body.decode()) == (403, True)
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer realm="billing-service", error="insufficient_scope", scope="{operation.scope}"'
    )
    for scope in (operation.scope, "admin"):
        having = await given_key(service.settings.database_url, scope)
        assert call(service, operation, having).status not in (401, 403)


def test_what_is_open_to_all_is_named_here() -> None:
    open_to_all = {operation.path for operation in OPERATIONS if operation.scope is None}
    console = {"/", "/console/sign-in", "/console/sign-out", "/console/static/{name}", "/console/{page}"}
    documents = {"/openapi.json", "/docs", "/docs/{name}", "/.well-known/jwks.json"}
    assert open_to_all == {"/healthz", "/readyz"} | documents | console


async def test_a_void_says_which_key_asked_for_it(service: Service, admin: aiohttp.ClientSession) -> None:
    key = await given_key(service.settings.database_url, "usage:void", name="Support")
    await given_customer(admin)
    for event, said in (("1", {}), ("2", {"voidedFor": "Ada"})):
        record = (await post(admin, "/usage", usage(eventId=event))).require(201)
        path = f"/customers/acme/usage/{record['requestId']}/void"
        voided = (await send(admin, "POST", path, {"reason": "a test"} | said, bearer(key))).require(200)
        assert (voided["voidedBy"], voided["voidedFor"]) == (f"bk_{id_of(key)}", said.get("voidedFor"))


class TestAKeyBoundToACustomer:
    @pytest.fixture
    async def bound(self, service: Service, admin: aiohttp.ClientSession) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of customer `acme` alone, who is in the middle of others."""
        for customer_id in ("abc", "acme", "xyz"):
            await given_customer(admin, customer_id)
            (await post(admin, "/usage", usage(customerId=customer_id, eventId="1"))).require(201)
        key = await given_key(service.settings.database_url, "admin", customer_id="acme")
        async with aiohttp.ClientSession(service.url, headers=bearer(key)) as session:
            yield session

    async def test_works_for_its_customer(self, bound: aiohttp.ClientSession) -> None:
        record = (await post(bound, "/usage", usage(eventId="2"))).require(201)
        (await get(bound, f"/customers/acme/usage/{record['requestId']}")).require(200)
        assert len((await get(bound, "/customers/acme/usage")).require(200)["data"]) == 2
        assert (await get(bound, "/customers/acme/summary")).require(200)["total"]["records"] == 2
        (await send(bound, "PATCH", "/customers/acme", {"name": "Acme Ltd"})).require(200)
        (await post(bound, "/customers", {"id": "acme", "name": "Acme"})).problem("customer_exists")

    async def test_sees_one_customer_in_lists(self, bound: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
        for path, key in (("/customers", "id"), ("/summary", "customerId")):
            page = (await get(bound, path)).require(200)
            assert ([each[key] for each in page["data"]], page["nextCursor"]) == (["acme"], None)
            for limit, after in (("1", ["acme"]), ("2", [])):  # a cursor of somebody who sees more
                cursor = (await get(admin, f"{path}?limit={limit}")).require(200)["nextCursor"]
                page = (await get(bound, f"{path}?cursor={cursor}")).require(200)
                assert [each[key] for each in page["data"]] == after

    async def test_exports_one_customer(self, bound: aiohttp.ClientSession) -> None:
        for path in ("/usage/export", "/usage/export?customerId=acme"):
            async with bound.get(path) as answer:
                lines = [json.loads(line) async for line in answer.content]
            assert [line["customerId"] for line in lines] == ["acme"]
        (await get(bound, "/usage/export?customerId=abc")).problem("forbidden")

    async def test_is_told_the_same_of_a_customer_that_is_not_there(self, bound: aiohttp.ClientSession) -> None:
        answers = [await get(bound, f"/customers/{id_}/usage") for id_ in ("abc", "nobody")]
        assert answers[0].problem("forbidden") == answers[1].problem("forbidden")
        answers = [await post(bound, "/customers", {"id": id_, "name": "New"}) for id_ in ("abc", "nobody")]
        assert answers[0].problem("forbidden") == answers[1].problem("forbidden")
        (await post(bound, "/customers", {"name": "New"})).problem("forbidden")

    async def test_records_for_one_customer(self, bound: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
        refused = await post(bound, "/usage", usage(customerId="abc", eventId="2"))
        assert len(refused.problem("forbidden")["requestId"]) == 64
        records = [usage(customerId=id_, eventId="3") for id_ in ("abc", "acme", "nobody")]
        for query, good in (("?dryRun=true", "recordable"), ("", "recorded")):
            batch = await post(bound, f"/usage/batch{query}", {"records": [*records, {}]})
            results = batch.require(200)["results"]
            assert [result["outcome"] for result in results] == ["rejected", good, "rejected", "rejected"]
            problems = [result["problem"]["code"] for result in results if "problem" in result]
            assert problems == ["forbidden", "forbidden", "validation_error"]
        total = (await get(admin, "/customers/abc/summary")).require(200)["total"]
        assert total["records"] == 1

    async def test_of_a_customer_that_is_not_there_yet(self, service: Service) -> None:
        """Such keys could be created in 0.2; now the customer must exist."""
        database_url = service.settings.database_url
        key = await given_key(database_url, "admin")
        await execute(
            str(database_url), f"UPDATE api_keys SET customer_id = 'new' WHERE key_id = '{id_of(key)}'", "SELECT 1"
        )
        async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
            assert (await get(http, "/customers")).require(200)["data"] == []
            async with http.get("/usage/export") as answer:
                assert (answer.status, await answer.read()) == (200, b"")
            (await get(http, "/customers/new")).problem("customer_not_found")
            await given_customer(http, "new")
            (await get(http, "/customers/new")).require(200)


async def test_the_client_tells_what_is_wrong_with_its_key(service: Service, admin: aiohttp.ClientSession) -> None:
    await given_customer(admin)
    url = service.settings.database_url
    reader = await given_key(url, "usage:read")
    await given_customer(admin, "another")
    stranger = await given_key(url, "usage:write", customer_id="another")
    used = Usage(customer_id="acme", service="storage", units_consumed=1, price_per_unit=1)
    for key, error, code in (
        ("bk_wrong", AuthenticationError, "unauthenticated"),
        (reader, PermissionDeniedError, "forbidden"),
        (stranger, PermissionDeniedError, "forbidden"),
    ):
        async with BillingSystemClient(base_url=service.url, api_key=key) as client:
            with pytest.raises(error) as caught:
                await client.record_usage(**msgspec.structs.asdict(used))
            assert (caught.value.code, caught.value.outcome) == (code, "rejected")
    async with BillingSystemClient(base_url=service.url, api_key=stranger) as client:
        (result,) = [result async for result in client.record_usages([used])]
        assert (result.outcome, type(result.error)) == ("rejected", PermissionDeniedError)
