"""Credits: usage with negative units."""

from typing import Any

import aiohttp
import pytest

from tests.calls import get, post, send, stored, usage
from tests.contract.test_usage import request_id


async def summary(http: aiohttp.ClientSession, customer: str, query: str = "") -> Any:
    return (await get(http, f"/customers/{customer}/summary{query}")).require(200)


@pytest.mark.parametrize(("spelling", "plain"), [("-1.50", "-1.5"), (-15e-1, "-1.5"), ("-0", "0"), ("-0e5", "0")])
async def test_a_credit_is_written_plainly(
    shared_http: aiohttp.ClientSession, customer: str, spelling: Any, plain: str
) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer, unitsConsumed=spelling))).require(201)
    assert record["unitsConsumed"] == plain
    assert record["amount"] == ("0" if plain == "0" else "-0.03")
    assert record["requestId"] == request_id("usage.v1", customer, "storage", plain, "0.02")
    assert await stored(shared_http, customer) == [record]


async def test_a_free_credit_is_worth_nothing(shared_http: aiohttp.ClientSession, customer: str) -> None:
    report = usage(customerId=customer, unitsConsumed="-3", pricePerUnit="0")
    assert (await post(shared_http, "/usage", report)).require(201)["amount"] == "0"
    credit = {"records": 1, "units": "-3", "amount": "0"}
    assert (await summary(shared_http, customer))["total"] == credit | {"credits": credit}


@pytest.mark.parametrize(
    "units", ["-100000000000000000000000000000000000000", "-0.0000000000000000001", "-", "--1", "-inf"]
)
async def test_the_bounds_are_those_of_usage(shared_http: aiohttp.ClientSession, customer: str, units: str) -> None:
    report = usage(customerId=customer, unitsConsumed=units)
    (await post(shared_http, "/usage", report)).problem("validation_error", "/unitsConsumed")


async def test_a_price_is_never_negative(shared_http: aiohttp.ClientSession, customer: str) -> None:
    report = usage(customerId=customer, pricePerUnit="-1")
    (await post(shared_http, "/usage", report)).problem("validation_error", "/pricePerUnit")


async def test_sums_have_the_credits_apart(shared_http: aiohttp.ClientSession, customer: str) -> None:
    instants = ("2026-03-01T00:10:00Z", "2026-03-01T05:00:00Z", "2026-03-02T00:00:00Z")
    given = [("storage", "4", 0), ("storage", "-1", 0), ("compute", "2", 1), ("compute", "-5", 2), ("storage", "1", 2)]
    records = [
        usage(customerId=customer, eventId=str(number), service=service, unitsConsumed=units, occurredAt=instants[at])
        for number, (service, units, at) in enumerate(given)
    ]
    results = (await post(shared_http, "/usage/batch", {"records": records[:3]})).require(200)["results"]
    assert {result["outcome"] for result in results} == {"recorded"}
    for record in records[3:]:
        (await post(shared_http, "/usage", record)).require(201)
    credits_ = {"records": 2, "units": None, "amount": "-0.12"}
    total = {"records": 5, "units": None, "amount": "0.02", "credits": credits_}
    assert (await summary(shared_http, customer))["total"] == total
    by_service = await summary(shared_http, customer, "?groupBy=service")
    assert by_service["total"] == total
    of_storage = {"records": 1, "units": "-1", "amount": "-0.02"}
    assert by_service["groups"] == [
        {
            "service": "compute",
            "records": 2,
            "units": "-3",
            "amount": "-0.06",
            "credits": {"records": 1, "units": "-5", "amount": "-0.1"},
        },
        {"service": "storage", "records": 3, "units": "4", "amount": "0.08", "credits": of_storage},
    ]
    by_day = await summary(shared_http, customer, "?groupBy=day&from=2026-03-01T00:05:00Z&timezone=Asia/Kathmandu")
    assert by_day["groups"] == [
        {"day": "2026-03-01", "records": 3, "units": None, "amount": "0.1", "credits": of_storage},
        {
            "day": "2026-03-02",
            "records": 2,
            "units": None,
            "amount": "-0.08",
            "credits": {"records": 1, "units": "-5", "amount": "-0.1"},
        },
    ]
    until = await summary(shared_http, customer, "?to=2026-03-01T04:00:00Z")
    assert until["total"] == {"records": 2, "units": "3", "amount": "0.06", "credits": of_storage}
    every = (await get(shared_http, "/summary?limit=1000")).require(200)["data"]
    assert [each["total"] for each in every if each["customerId"] == customer] == [total]


async def test_a_credit_can_be_voided(shared_http: aiohttp.ClientSession, customer: str) -> None:
    (await post(shared_http, "/usage", usage(customerId=customer))).require(201)
    credit = (await post(shared_http, "/usage", usage(customerId=customer, unitsConsumed="-1"))).require(201)
    assert (await summary(shared_http, customer))["total"]["credits"]["amount"] == "-0.02"
    path = f"/customers/{customer}/usage/{credit['requestId']}/void"
    (await send(shared_http, "POST", path, {"reason": "a test"})).require(200)
    assert (await summary(shared_http, customer))["total"] == {"records": 1, "units": "1.5", "amount": "0.03"}
