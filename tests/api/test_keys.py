"""API keys over HTTP: created, listed and revoked by an admin, where the database role may."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from tests.calls import get, given_customer, post, send, usage
from tests.databases import execute
from tests.keys import bearer, given_key, id_of
from tests.services import Service


@pytest.fixture
async def admin(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that may do everything; customer `acme` is there."""
    key = await given_key(service.settings.database_url, "admin", name="Admin")
    async with aiohttp.ClientSession(service.url, headers=bearer(key)) as session:
        await given_customer(session)
        yield session


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(
    service: Service, admin: aiohttp.ClientSession, database_url: str
) -> None:
    new = {"name": "nightly job", "scopes": ["usage:write"], "customerId": "acme"}
    created = (await post(admin, "/keys", new)).require(201)
    text = created.pop("key")
    assert id_of(text) == created["id"]
    listed = (await get(admin, "/keys")).require(200)
    assert listed["nextCursor"] is None
    assert [key["name"] for key in listed["data"]] == ["Admin", "nightly job"]
    assert listed["data"][1] == created | {"lastUsedAt": None}
    secret = text.rpartition("_")[2]
    assert secret not in str(listed)
    assert await execute(database_url, f"SELECT count(*) FROM api_keys WHERE api_keys::text LIKE '%{secret}%'") == 0

    (await send(admin, "POST", "/usage", usage(eventId="1"), bearer(text))).require(201)
    revoked = (await send(admin, "DELETE", f"/keys/bk_{created['id']}", None)).require(200)
    assert revoked["revokedAt"] is not None
    assert (await send(admin, "DELETE", f"/keys/{created['id']}", None)).require(200) == revoked


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["usage:everything"]}, "/scopes"),
        ({"name": ""}, "/name"),
        ({"name": None}, "/name"),
        ({"expiresAt": "yesterday"}, "/expiresAt"),
        ({"expiresAt": (datetime.now(UTC) - timedelta(days=1)).isoformat()}, "/expiresAt"),
        ({"customer": "acme"}, "/customer"),
    ],
)
async def test_what_is_no_key_is_refused(
    admin: aiohttp.ClientSession, changes: dict[str, object], pointer: str
) -> None:
    new = {"name": "nightly job", "scopes": ["usage:write"]} | changes
    (await post(admin, "/keys", new)).problem("validation_error", pointer)
    assert len((await get(admin, "/keys")).require(200)["data"]) == 1


async def test_a_key_of_a_customer_that_is_not_there(admin: aiohttp.ClientSession) -> None:
    new = {"name": "nightly job", "scopes": ["usage:write"], "customerId": "nobody"}
    (await post(admin, "/keys", new)).problem("customer_not_found")


@pytest.mark.parametrize("key_id", ["bk_0000000000000000", "nothing", "%27%20OR%20true"])
async def test_a_key_that_is_not_there(admin: aiohttp.ClientSession, key_id: str) -> None:
    (await send(admin, "DELETE", f"/keys/{key_id}", None)).problem("key_not_found")


async def test_an_admin_of_one_customer_manages_no_keys(service: Service, admin: aiohttp.ClientSession) -> None:
    bound = bearer(await given_key(service.settings.database_url, "admin", customer_id="acme"))
    (await send(admin, "POST", "/keys", {"name": "x", "scopes": ["admin"]}, bound)).problem("forbidden")
    (await send(admin, "GET", "/keys", None, bound)).problem("forbidden")
    (await send(admin, "DELETE", "/keys/0000000000000000", None, bound)).problem("forbidden")


async def test_each_key_that_is_made_or_revoked_has_a_line_in_the_log(
    admin: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    created = (await post(admin, "/keys", {"name": "x", "scopes": ["usage:read"], "customerId": "acme"})).require(201)
    (await send(admin, "DELETE", f"/keys/{created['id']}", None)).require(200)
    lines = [record.__dict__ for record in caplog.records if record.name == "billing_service.audit"]
    assert [(line["msg"], line["key_id"], line["customer_id"]) for line in lines] == [
        ("API key created", f"bk_{created['id']}", "acme"),
        ("API key revoked", f"bk_{created['id']}", "acme"),
    ]
    assert created["key"].rpartition("_")[2] not in caplog.text
