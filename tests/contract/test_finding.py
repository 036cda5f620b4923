"""Records by what is known of them: event id, request id, dimensions."""

import json
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from tests.calls import get, given_customer, post, usage

NOBODY = "0" * 64


async def listed(http: aiohttp.ClientSession, customer: str, **query: str) -> list[Any]:
    page = (await get(http, f"/customers/{customer}/usage?{urlencode(query)}")).require(200)
    return [record["eventId"] for record in page["data"]]


async def given_usage(http: aiohttp.ClientSession, customer: str) -> list[Any]:
    """Four records, one an hour, with the event ids 0 to 3."""
    dimensions = [{"model": "large", "region": "eu"}, {"model": "large", "a b": "ü&="}, {"model": "small"}, None]
    records = [
        usage(customerId=customer, eventId=str(n), dimensions=pairs, occurredAt=f"2026-03-01T0{n}:00:00Z")
        for n, pairs in enumerate(dimensions)
    ]
    results = (await post(http, "/usage/batch", {"records": records})).require(200)["results"]
    return [result["record"] for result in results]


async def test_by_event_id(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer)
    await given_customer(shared_http, f"{customer}-2")
    page = (await get(shared_http, f"/customers/{customer}/usage?eventId=2")).require(200)
    assert page == {"data": [records[2]], "nextCursor": None}
    assert await listed(shared_http, customer, eventId="4") == []
    assert await listed(shared_http, f"{customer}-2", eventId="2") == []
    assert await listed(shared_http, customer, eventId="2", service="other") == []
    assert await listed(shared_http, customer, **{"eventId": "2", "dimension.model": "large"}) == []
    assert await listed(shared_http, customer, **{"eventId": "2", "dimension.model": "small"}) == ["2"]
    assert await listed(shared_http, customer, **{"eventId": "2", "from": "2026-03-01T02:00:00Z"}) == ["2"]
    assert await listed(shared_http, customer, eventId="2", to="2026-03-01T02:00:00Z") == []
    (await get(shared_http, "/customers/nobody/usage?eventId=2")).problem("customer_not_found")
    (await get(shared_http, f"/customers/{customer}/usage?eventId=")).problem("validation_error", "query/eventId")


async def test_by_request_id_without_a_customer(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer)
    for record in records:
        assert (await get(shared_http, f"/usage/{record['requestId']}")).require(200) == record
    for unknown in (NOBODY, records[0]["requestId"].upper(), "x"):
        (await get(shared_http, f"/usage/{unknown}")).problem("usage_not_found")
    (await get(shared_http, "/usage/batch")).problem("method_not_allowed")


async def test_by_dimensions(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    assert await listed(shared_http, customer, **{"dimension.model": "large"}) == ["0", "1"]
    assert await listed(shared_http, customer, **{"dimension.model": "large", "dimension.region": "eu"}) == ["0"]
    assert await listed(shared_http, customer, **{"dimension.a b": "ü&="}) == ["1"]
    assert await listed(shared_http, customer, **{"dimension.model": "Large"}) == []
    assert await listed(shared_http, customer, **{"dimension.other": "large"}) == []
    query = urlencode({"dimension.model": "large", "limit": 1})
    first = (await get(shared_http, f"/customers/{customer}/usage?{query}")).require(200)
    cursor = urlencode({"cursor": first["nextCursor"]})
    second = (await get(shared_http, f"/customers/{customer}/usage?{query}&{cursor}")).require(200)
    assert [record["eventId"] for page in (first, second) for record in page["data"]] == ["0", "1"]
    assert second["nextCursor"] is None
    other = await get(shared_http, f"/customers/{customer}/usage?dimension.model=small&limit=1&{cursor}")
    other.problem("validation_error", "query/cursor")


async def test_an_export_by_dimensions(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer)
    async with shared_http.get(f"/usage/export?customerId={customer}&dimension.model=large") as response:
        assert [json.loads(line) for line in (await response.read()).splitlines()] == records[:2]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("dimension.=a", "query/dimension."),
        ("dimension.model=", "query/dimension.model"),
        ("dimension.model=a&dimension.model=b", "query/dimension.model"),
        (f"dimension.{'x' * 65}=a", f"query/dimension.{'x' * 54}…"),
        ("dimension.a%00=b", "query/dimension.a\0"),
        ("dimensions=a", "query/dimensions"),
        ("dimension=a", "query/dimension"),
    ],
)
async def test_filters_that_are_none(
    shared_http: aiohttp.ClientSession, customer: str, query: str, pointer: str
) -> None:
    for path in (f"/customers/{customer}/usage", "/usage/export", f"/customers/{customer}/summary", "/summary"):
        (await get(shared_http, f"{path}?{query}")).problem("validation_error", pointer)
