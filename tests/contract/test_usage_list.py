"""`GET /customers/{id}/usage`: pages, filters, and what is refused."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest

from billing_service.http.cursors import write_cursor
from tests.calls import get, given_customer, post, stored, usage

MANY = 100
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


async def given_usage(http: aiohttp.ClientSession, customer: str, count: int, **changes: Any) -> list[Any]:
    """Record usage of successive hours, and return the records."""
    records = [
        usage(**{"customerId": customer, "eventId": f"{count}-{n}", "occurredAt": at(n)} | changes)
        for n in range(count)
    ]
    results = (await post(http, "/usage/batch", {"records": records})).require(200)["results"]
    return [result["record"] for result in results]


def at(hour: float) -> str:
    return (FIRST + timedelta(hours=hour)).isoformat()


async def read_pages(http: aiohttp.ClientSession, customer: str, **query: Any) -> list[list[Any]]:
    """All the pages of a list."""
    pages: list[list[Any]] = []
    path = f"/customers/{quote(customer, safe='')}/usage"
    while len(pages) < MANY:
        page = (await get(http, f"{path}?{urlencode(query)}")).require(200)
        assert page.keys() == {"data", "nextCursor"}
        pages.append(page["data"])
        if page["nextCursor"] is None:
            return pages
        query["cursor"] = page["nextCursor"]
    raise AssertionError("the list has no end")


async def test_a_customer_without_usage(shared_http: aiohttp.ClientSession, customer: str) -> None:
    assert await read_pages(shared_http, customer) == [[]]


async def test_records_come_in_the_order_in_which_the_usage_occurred(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    records = await given_usage(shared_http, customer, 7)
    early = (await post(shared_http, "/usage", usage(customerId=customer, occurredAt=at(-1)))).require(201)
    assert await stored(shared_http, customer) == [early, *records]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_pages_hold_every_record_once(shared_http: aiohttp.ClientSession, customer: str, limit: int) -> None:
    records = await given_usage(shared_http, customer, 7)
    pages = await read_pages(shared_http, customer, limit=limit)
    assert list(chain(*pages)) == records
    assert [len(page) for page in pages] == [limit] * (7 // limit) + [7 % limit] * (7 % limit > 0)


async def test_records_of_one_instant_are_told_apart(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer, 10, occurredAt=at(0))
    pages = await read_pages(shared_http, customer, limit=3)
    assert sorted(record["eventId"] for page in pages for record in page) == sorted(r["eventId"] for r in records)


async def test_without_a_limit_a_page_has_a_hundred(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer, 101)
    assert [len(page) for page in await read_pages(shared_http, customer)] == [100, 1]


async def test_writers_do_not_disturb_a_reader(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer, 9)
    seen, path, number = [], f"/customers/{customer}/usage?limit=2", 0
    while path and number < MANY:
        page = (await get(shared_http, path)).require(200)
        seen += page["data"]
        number += 1
        behind = usage(customerId=customer, eventId=f"behind-{number}", occurredAt=at(-number))
        (await post(shared_http, "/usage", behind)).require(201)
        path = f"/customers/{customer}/usage?limit=2&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert seen == records


async def test_the_list_is_the_customers_own(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_customer(shared_http, f"{customer}/other")
    mine = await given_usage(shared_http, customer, 3)
    theirs = await given_usage(shared_http, f"{customer}/other", 3, service="compute")
    assert await read_pages(shared_http, customer) == [mine]
    assert await read_pages(shared_http, f"{customer}/other") == [theirs]


async def test_from_is_in_and_to_is_out(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = await given_usage(shared_http, customer, 5)
    for query, expected in (
        ({"from": at(1)}, records[1:]),
        ({"from": at(1.0001)}, records[2:]),
        ({"to": at(3)}, records[:3]),
        ({"to": at(3.0001)}, records[:4]),
        ({"from": at(1), "to": at(3)}, records[1:3]),
        ({"from": at(3), "to": at(3)}, []),
        ({"from": "2025-01-01T03:30:00+02:30"}, records[1:]),
        ({"to": "9999-12-31T23:59:59.999999Z"}, records),
        ({"from": "0001-01-01T00:00:00Z"}, records),
    ):
        for limit in (1, 100):
            assert list(chain(*await read_pages(shared_http, customer, limit=limit, **query))) == expected, query


async def test_one_service(shared_http: aiohttp.ClientSession, customer: str) -> None:
    odd = "a&b=c/ü 🦀"
    records = await given_usage(shared_http, customer, 3, service=odd)
    await given_usage(shared_http, customer, 4, service="compute")
    assert list(chain(*await read_pages(shared_http, customer, limit=2, service=odd))) == records
    assert await read_pages(shared_http, customer, service=odd.upper()) == [[]]
    both = await read_pages(shared_http, customer, service=odd, to=at(1))
    assert both == [records[:1]]


async def test_an_unknown_customer(shared_http: aiohttp.ClientSession) -> None:
    (await get(shared_http, "/customers/nobody/usage")).problem("customer_not_found")


async def test_a_cursor_serves_only_the_list_it_came_from(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_customer(shared_http, f"{customer}-other")
    for id_ in (customer, f"{customer}-other"):
        await given_usage(shared_http, id_, 3)
    path = f"/customers/{customer}/usage"
    cursor = (await get(shared_http, f"{path}?limit=1")).require(200)["nextCursor"]
    assert len((await get(shared_http, f"{path}?limit=2&cursor={cursor}")).require(200)["data"]) == 2
    for address in (
        f"{path}?service=storage&cursor={cursor}",
        f"{path}?to={quote(at(2))}&cursor={cursor}",
        f"{path}?from={quote(at(0))}&cursor={cursor}",
        f"/customers/{customer}-other/usage?cursor={cursor}",
        f"/customers?cursor={cursor}",
        f"{path}?cursor={cursor[:-1]}",
        f"{path}?cursor={cursor}A",
        f"{path}?cursor=%00",
    ):
        (await get(shared_http, address)).problem("validation_error", "query/cursor")


@pytest.mark.parametrize(
    "position",
    [
        (datetime(2025, 1, 1), bytes(32)),  # noqa: DTZ001 - what is tested is a time without an offset
        ("0001-01-01T12:00:00+14:00", bytes(32)),
        ("9999-12-31T23:00:00-14:00", bytes(32)),
        (FIRST, "text"),
        (FIRST,),
        "acme",
        None,
    ],
    ids=lambda position: str(position)[:40],
)
async def test_a_cursor_that_only_a_forger_could_make(
    shared_http: aiohttp.ClientSession, customer: str, position: object
) -> None:
    begin, end = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    cursor = write_cursor(f"usage {customer} None {begin} {end}", position)
    (await get(shared_http, f"/customers/{customer}/usage?cursor={cursor}")).problem("validation_error", "query/cursor")


async def test_a_forged_cursor_of_customers(shared_http: aiohttp.ClientSession) -> None:
    for position in ("a\0b", "", "x" * 1000, b"acme"):
        cursor = write_cursor("customers", position)
        (await get(shared_http, f"/customers?cursor={cursor}")).problem("validation_error", "query/cursor")


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("limit=0", ["query/limit"]),
        ("limit=1001", ["query/limit"]),
        ("service=", ["query/service"]),
        ("service=%00", ["query/service"]),
        ("service=%FF", ["query"]),
        ("service=" + "x" * 201, ["query/service"]),
        ("service=a&service=b", ["query/service"]),
        ("from=2025-01-01", ["query/from"]),
        ("from=2025-01-01T00:00:00", ["query/from"]),
        ("from=2025-01-01T00:00:00+01:00", ["query/from"]),  # the plus sign of a query is a space
        ("from=yesterday&to=tomorrow", ["query/from", "query/to"]),
        ("from=0001-01-01T00:00:00%2B14:00", ["query/from"]),
        ("to=9999-12-31T23:59:59-14:00", ["query/to"]),
        ("from=1735689600", ["query/from"]),
        ("from=2025-01-01T00:00:00%2B0000", ["query/from"]),
        ("from=2025-01-01T00:00:00.0000019Z&to=2025-01-01T00:00:00Z", ["query/to"]),
        ("from=9999-12-31T23:59:59Z&to=2025-01-01T00:00:00Z", ["query/to"]),
        ("from_=2025-01-01T00:00:00Z", ["query/from_"]),
        ("until=2025-01-01T00:00:00Z&order=desc", ["query/order", "query/until"]),
        ("cursor=nonsense", ["query/cursor"]),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_query_that_is_not_valid(
    shared_http: aiohttp.ClientSession, customer: str, query: str, pointers: list[str]
) -> None:
    (await get(shared_http, f"/customers/{customer}/usage?{query}")).problem("validation_error", *pointers)
