"""The endpoints of customers."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from billing_client.contract.identity import new_customer_id
from tests.calls import exchange, get, given_customer, is_now, json_request, key, post, request_head, send
from tests.services import Service

MANY = 100
ODD_IDS = [
    "a/b",
    "/",
    "..",
    ".",
    "a b",
    "%2F",
    "a?b#c",
    "mañana",
    "顧客",
    "🦀",
    "a\u2028b",
    "x" * 128,
    "é" * 128,
    '"',
    "\\",
]


async def test_a_new_customer(http: aiohttp.ClientSession) -> None:
    before = datetime.now(UTC)
    created = await post(http, "/customers", {"id": "acme", "name": "Acme"})
    customer = created.require(201)
    assert created.headers["Location"] == "/customers/acme"
    assert not created.replayed
    assert customer.keys() == {"id", "name", "createdAt", "updatedAt"}
    assert (customer["id"], customer["name"]) == ("acme", "Acme")
    assert customer["createdAt"] == customer["updatedAt"]
    assert is_now(customer["createdAt"], since=before)
    assert customer["createdAt"].endswith("Z")
    assert (await get(http, "/customers/acme")).require(200) == customer


async def test_a_customer_without_an_id_gets_one(http: aiohttp.ClientSession) -> None:
    for body in ({"name": "Acme"}, {"name": "Acme", "id": None}):
        created = await post(http, "/customers", body)
        id_ = created.require(201)["id"]
        assert re.fullmatch(r"cus_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id_)
        assert (await get(http, created.headers["Location"])).require(200)["id"] == id_


async def test_an_id_that_is_taken(http: aiohttp.ClientSession) -> None:
    customer = await given_customer(http)
    for headers in ({}, key("another call")):
        (await post(http, "/customers", {"id": "acme", "name": "Another"}, headers)).problem("customer_exists")
    assert (await get(http, "/customers/acme")).require(200) == customer


async def test_the_callers_own_retry_gets_the_first_customer(http: aiohttp.ClientSession) -> None:
    body = {"id": "acme", "name": "Acme"}
    first = await post(http, "/customers", body, key("a call"))
    again = await post(http, "/customers", body, key("a call"))
    assert again.require(201) == first.require(201)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.headers["Location"] == "/customers/acme"


async def test_of_many_at_once_one_creates_the_customer(http: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(post(http, "/customers", {"id": "acme", "name": f"Acme {n}"}) for n in range(50)))
    created = [answer for answer in answers if answer.status == 201]
    assert len(created) == 1
    for answer in answers:
        if answer is not created[0]:
            answer.problem("customer_exists")
    assert (await get(http, "/customers/acme")).require(200) == created[0].body


async def test_a_change_of_name_moves_updated_at(http: aiohttp.ClientSession) -> None:
    customer = await given_customer(http)
    renamed = (await send(http, "PATCH", "/customers/acme", {"name": "Acme & Söhne"})).require(200)
    assert renamed == customer | {"name": "Acme & Söhne", "updatedAt": renamed["updatedAt"]}
    assert renamed["updatedAt"] > customer["updatedAt"]
    assert (await get(http, "/customers/acme")).require(200) == renamed


async def test_the_same_name_leaves_updated_at_alone(http: aiohttp.ClientSession) -> None:
    customer = await given_customer(http)
    assert (await send(http, "PATCH", "/customers/acme", {"name": "Acme"})).require(200) == customer


async def test_a_customer_that_is_not_there(http: aiohttp.ClientSession) -> None:
    (await get(http, "/customers/nobody")).problem("customer_not_found")
    (await send(http, "PATCH", "/customers/nobody", {"name": "Somebody"})).problem("customer_not_found")


@pytest.mark.parametrize("id_", ODD_IDS, ids=lambda id_: ascii(id_)[:20])
def test_an_id_may_be_any_text(shared_service: Service, id_: str) -> None:
    created = exchange(shared_service, json_request("/customers", json.dumps({"id": id_, "name": "Odd"}).encode()))
    assert created.require(201)["id"] == id_
    address = f"/customers/{quote(id_, safe='')}"
    assert created.headers["Location"] == address
    # not by way of a client library: they take "/customers/.." for "/"
    assert exchange(shared_service, request_head("GET", address)).require(200) == created.body
    listed = exchange(shared_service, request_head("GET", f"{address}/usage"))
    assert listed.require(200) == {"data": [], "nextCursor": None}


async def test_ids_that_look_alike_are_not_the_same(http: aiohttp.ClientSession) -> None:
    ids = ["caf\u00e9", "cafe\u0301", "CAF\u00c9", "cafe", "cafe ", " cafe"]
    for id_ in ids:
        await given_customer(http, id_)
    listed = (await get(http, "/customers")).require(200)["data"]
    assert sorted(customer["id"] for customer in listed) == sorted(ids)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name"]),
        ({"name": ""}, ["/name"]),
        ({"name": "x" * 201}, ["/name"]),
        ({"name": None}, ["/name"]),
        ({"name": 1, "id": ["a"]}, ["/id", "/name"]),
        ({"name": "a\x00b", "id": "a\nb"}, ["/id", "/name"]),
        ({"name": "\x7f", "id": "\x80"}, ["/id", "/name"]),
        ({"name": "Acme", "id": ""}, ["/id"]),
        ({"name": "Acme", "id": "x" * 129}, ["/id"]),
        ({"name": "Acme\n"}, ["/name"]),
        ({"name": "Acme", "Id": "a", "a/b~c": 1}, ["/Id", "/a~1b~0c"]),
        ([], [""]),
        ("Acme", [""]),
        (None, [""]),
    ],
    ids=str,
)
async def test_input_that_is_not_valid_is_refused_with_all_its_faults(
    shared_http: aiohttp.ClientSession, body: Any, pointers: list[str]
) -> None:
    data = b"null" if body is None else body
    (await post(shared_http, "/customers", data)).problem("validation_error", *pointers)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [({}, ["/name"]), ({"name": ""}, ["/name"]), ({"name": "Acme", "id": "acme"}, ["/id"]), ([], [""])],
    ids=str,
)
async def test_a_change_that_is_not_valid(shared_http: aiohttp.ClientSession, body: Any, pointers: list[str]) -> None:
    id_ = new_customer_id()
    customer = await given_customer(shared_http, id_)
    (await send(shared_http, "PATCH", f"/customers/{id_}", body)).problem("validation_error", *pointers)
    assert (await get(shared_http, f"/customers/{id_}")).require(200) == customer


async def test_the_list_is_read_in_pages_that_writers_do_not_disturb(http: aiohttp.ClientSession) -> None:
    ids = [f"customer-{number:02}" for number in range(0, 20, 2)]
    for id_ in ids:
        await given_customer(http, id_)
    seen, address, number = [], "/customers?limit=3", 0
    while address and number < MANY:
        page = (await get(http, address)).require(200)
        seen += [customer["id"] for customer in page["data"]]
        assert len(page["data"]) <= 3
        await given_customer(http, f"a-before-{number}")  # behind the reader, who must not be shown anything twice
        await send(http, "PATCH", f"/customers/{ids[-1]}", {"name": f"New {number}"})
        number += 1
        address = f"/customers?limit=3&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert seen == ids


async def test_the_list_is_ordered_by_code_point(http: aiohttp.ClientSession) -> None:
    ids = ["B", "a", "b", "é", "z", "_", "\U0001f980", "\ufffd", "10", "9"]
    for id_ in ids:
        await given_customer(http, id_)
    seen: list[str] = []
    address = "/customers?limit=1"
    while address and len(seen) < MANY:
        page = (await get(http, address)).require(200)
        seen += [customer["id"] for customer in page["data"]]
        address = f"/customers?limit=1&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert seen == sorted(ids)


async def test_a_page_that_ends_the_list_has_no_cursor(http: aiohttp.ClientSession) -> None:
    assert (await get(http, "/customers")).require(200) == {"data": [], "nextCursor": None}
    for id_ in ("a", "b"):
        await given_customer(http, id_)
    for limit, more in ((1, True), (2, False), (1000, False)):
        page = (await get(http, f"/customers?limit={limit}")).require(200)
        assert len(page["data"]) == min(limit, 2)
        assert (page["nextCursor"] is not None) == more


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("limit=0", ["query/limit"]),
        ("limit=1001", ["query/limit"]),
        ("limit=-1", ["query/limit"]),
        ("limit=ten", ["query/limit"]),
        ("limit=1.5", ["query/limit"]),
        ("limit=", ["query/limit"]),
        ("limit=" + "9" * 1000, ["query/limit"]),
        ("limit=1&limit=2", ["query/limit"]),
        ("cursor=nonsense", ["query/cursor"]),
        ("cursor=%00", ["query/cursor"]),
        ("cursor=%FF%FE", ["query"]),
        ("cursor=%ED%A0%80", ["query"]),
        ("offset=10", ["query/offset"]),
        ("Limit=10", ["query/Limit"]),
        ("limit=0&sort=name", ["query/limit", "query/sort"]),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_query_that_is_not_valid(shared_http: aiohttp.ClientSession, query: str, pointers: list[str]) -> None:
    (await get(shared_http, f"/customers?{query}")).problem("validation_error", *pointers)


@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
async def test_other_calls_take_no_query(shared_http: aiohttp.ClientSession, method: str) -> None:
    path = "/customers" if method == "POST" else "/customers/nobody"
    body = None if method == "GET" else {"name": "Nobody", "id": "nobody"} if method == "POST" else {"name": "Nobody"}
    (await send(shared_http, method, f"{path}?dry_run=true", body)).problem("validation_error", "query/dry_run")
    (await get(shared_http, "/customers/nobody")).problem("customer_not_found")


async def test_times_are_told_in_utc_by_the_services_clock(http: aiohttp.ClientSession) -> None:
    created = datetime.fromisoformat((await given_customer(http))["createdAt"])
    assert created.utcoffset() == timedelta(0)


async def test_the_same_id_and_key_with_another_name_is_no_retry(http: aiohttp.ClientSession) -> None:
    new = {"id": "acme", "name": "Acme"}
    created = (await post(http, "/customers", new, key("k"))).require(201)
    (await post(http, "/customers", new | {"name": "Other"}, key("k"))).problem("customer_exists")
    assert (await get(http, "/customers/acme")).require(200) == created
    (await send(http, "PATCH", "/customers/acme", {"name": "Renamed"})).require(200)
    retried = await post(http, "/customers", new, key("k"))
    assert (retried.require(201)["name"], retried.replayed) == ("Renamed", True)
