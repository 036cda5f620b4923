"""Summaries by dimensions: groups, filters, and what they add up to."""

from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from tests.calls import get, given_customer, post, usage

LARGE, SMALL, NONE = {"model": "large"}, {"model": "small"}, {"model": None}


async def summary(http: aiohttp.ClientSession, customer: str, **query: str) -> Any:
    return (await get(http, f"/customers/{customer}/summary?{urlencode(query)}")).require(200)


async def given_usage(http: aiohttp.ClientSession, customer: str) -> None:
    given: list[tuple[str, dict[str, str] | None, str, str]] = [
        ("storage", {"model": "large", "region": "eu"}, "1", "2026-03-01T00:07:00Z"),
        ("compute", {"model": "large", "region": "us"}, "2", "2026-03-01T04:00:00Z"),
        ("storage", {"model": "small", "region": "eu"}, "4", "2026-03-01T23:59:59Z"),
        ("storage", None, "8", "2026-03-02T00:00:00Z"),
        ("storage", {"region": "eu"}, "16", "2026-03-02T12:00:00Z"),
        ("storage", {"model": "large", "region": "eu"}, "-0.5", "2026-03-02T13:00:00Z"),
    ]
    records = [
        usage(
            customerId=customer,
            eventId=str(n),
            service=service,
            dimensions=pairs,
            unitsConsumed=units,
            pricePerUnit="1",
            occurredAt=at,
        )
        for n, (service, pairs, units, at) in enumerate(given)
    ]
    results = (await post(http, "/usage/batch", {"records": records})).require(200)["results"]
    assert {result["outcome"] for result in results} == {"recorded"}


def sums(group: Any) -> tuple[Any, ...]:
    return group.get("dimensions"), group["records"], group["units"], group["amount"]


async def test_groups_by_one_dimension(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    answer = await summary(shared_http, customer, groupBy="dimension.model")
    assert [sums(group) for group in answer["groups"]] == [
        (NONE, 2, "24", "24"),
        (LARGE, 3, None, "2.5"),
        (SMALL, 1, "4", "4"),
    ]
    assert answer["groups"][1]["credits"] == {"records": 1, "units": "-0.5", "amount": "-0.5"}
    assert sums(answer["total"]) == (None, 6, None, "30.5")
    unknown = await summary(shared_http, customer, groupBy="dimension.other")
    assert [sums(group) for group in unknown["groups"]] == [({"other": None}, 6, None, "30.5")]


async def test_groups_by_service_day_and_dimension(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    answer = await summary(shared_http, customer, groupBy="service,day,dimension.model")
    assert [(group["day"], group["service"], *sums(group)) for group in answer["groups"]] == [
        ("2026-03-01", "compute", LARGE, 1, "2", "2"),
        ("2026-03-01", "storage", LARGE, 1, "1", "1"),
        ("2026-03-01", "storage", SMALL, 1, "4", "4"),
        ("2026-03-02", "storage", NONE, 2, "24", "24"),
        ("2026-03-02", "storage", LARGE, 1, "-0.5", "-0.5"),
    ]


async def test_groups_by_two_dimensions(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    answer = await summary(shared_http, customer, groupBy="dimension.region,dimension.model")
    assert [sums(group) for group in answer["groups"]] == [
        ({"region": None, "model": None}, 1, "8", "8"),
        ({"region": "eu", "model": None}, 1, "16", "16"),
        ({"region": "eu", "model": "large"}, 2, "0.5", "0.5"),
        ({"region": "eu", "model": "small"}, 1, "4", "4"),
        ({"region": "us", "model": "large"}, 1, "2", "2"),
    ]


async def test_filters(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    answer = await summary(shared_http, customer, **{"dimension.model": "large", "groupBy": "service"})
    assert [(group["service"], *sums(group)) for group in answer["groups"]] == [
        ("compute", None, 1, "2", "2"),
        ("storage", None, 2, "0.5", "0.5"),
    ]
    assert sums(answer["total"]) == (None, 3, None, "2.5")
    both = await summary(shared_http, customer, **{"dimension.model": "large", "dimension.region": "us"})
    assert (both["groups"], sums(both["total"])) == ([], (None, 1, "2", "2"))
    grouped = await summary(shared_http, customer, **{"dimension.region": "eu", "groupBy": "dimension.model"})
    assert [sums(group) for group in grouped["groups"]] == [
        (NONE, 1, "16", "16"),
        (LARGE, 2, "0.5", "0.5"),
        (SMALL, 1, "4", "4"),
    ]
    same = await summary(shared_http, customer, **{"dimension.model": "small", "groupBy": "dimension.model"})
    assert [sums(group) for group in same["groups"]] == [(SMALL, 1, "4", "4")]
    none = await summary(shared_http, customer, **{"dimension.model": "huge"})
    assert sums(none["total"]) == (None, 0, "0", "0")


async def test_pages(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    whole = await summary(shared_http, customer, groupBy="dimension.model,dimension.region")
    query, groups = {"groupBy": "dimension.model,dimension.region", "limit": "2"}, []
    page = await summary(shared_http, customer, **query)
    groups += page["groups"]
    while page["nextCursor"] is not None:
        assert page["total"] == whole["total"]
        page = await summary(shared_http, customer, **query, cursor=page["nextCursor"])
        groups += page["groups"]
    assert groups == whole["groups"]


async def test_of_all_customers(shared_http: aiohttp.ClientSession, customer: str) -> None:
    await given_usage(shared_http, customer)
    await given_customer(shared_http, f"{customer}-2")
    query = urlencode({"groupBy": "dimension.model", "dimension.region": "eu", "limit": "1000"})
    data = (await get(shared_http, f"/summary?{query}")).require(200)["data"]
    (mine,) = [each for each in data if each["customerId"] == customer]
    assert [sums(group) for group in mine["groups"]] == [
        (NONE, 1, "16", "16"),
        (LARGE, 2, "0.5", "0.5"),
        (SMALL, 1, "4", "4"),
    ]


@pytest.mark.parametrize(
    "group_by",
    [
        "dimension",
        "dimension.",
        "dimension.a,dimension.b,dimension.c",
        f"dimension.{'x' * 65}",
        "dimension.%00",
        "dimension.a%0Ab",
        "model",
    ],
)
async def test_what_is_no_grouping(shared_http: aiohttp.ClientSession, customer: str, group_by: str) -> None:
    answer = await get(shared_http, f"/customers/{customer}/summary?groupBy={group_by}")
    answer.problem("validation_error", "query/groupBy")
