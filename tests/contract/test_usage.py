"""`POST /usage` and `GET /customers/{id}/usage/{requestId}`: every row of the table of outcomes."""

import json
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from tests.calls import exchange, get, given_customer, is_now, json_request, key, post, request_head, stored, usage
from tests.client.contract.test_identity import plain_decimals
from tests.services import Service

MEMBERS = {
    "requestId",
    "customerId",
    "service",
    "unitsConsumed",
    "pricePerUnit",
    "amount",
    "eventId",
    "occurredAt",
    "recordedAt",
    "recordedBy",
    "voidedAt",
}


def request_id(*parts: str) -> str:
    """The request id, from the contract's words rather than from the code under test."""
    return sha256(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


async def test_new_usage_is_recorded(shared_http: aiohttp.ClientSession, customer: str) -> None:
    before = datetime.now(UTC)
    answer = await post(shared_http, "/usage", usage(customerId=customer, unitsConsumed="1.50", pricePerUnit=2e-2))
    record = answer.require(201)
    assert not answer.replayed
    assert record.keys() == MEMBERS
    assert record["requestId"] == request_id("usage.v1", customer, "storage", "1.5", "0.02")
    assert (record["customerId"], record["service"]) == (customer, "storage")
    assert (record["unitsConsumed"], record["pricePerUnit"], record["amount"]) == ("1.5", "0.02", "0.03")
    assert (record["eventId"], record["voidedAt"]) == (None, None)
    assert is_now(record["recordedAt"], since=before)
    assert record["occurredAt"] == record["recordedAt"]
    assert answer.headers["Location"] == f"/customers/{customer}/usage/{record['requestId']}"
    assert (await get(shared_http, answer.headers["Location"])).require(200) == record
    assert await stored(shared_http, customer) == [record]


async def test_the_same_usage_in_another_call_is_a_duplicate(shared_http: aiohttp.ClientSession, customer: str) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer), key("first"))).require(201)
    again = usage(customerId=customer, unitsConsumed=1.50, pricePerUnit="2e-2", occurredAt="2020-01-01T00:00:00Z")
    for headers in ({}, key("second")):
        answer = await post(shared_http, "/usage", again, headers)
        problem = answer.problem("duplicate_record")
        assert problem["existing"] == record
        assert problem["requestId"] == record["requestId"]
        assert "eventId" in problem["detail"]  # the plain rule may be the wrong one for this caller
        assert not answer.replayed
    assert await stored(shared_http, customer) == [record]


async def test_usage_recorded_without_a_key_is_a_duplicate_for_every_later_call(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer))).require(201)
    for headers in ({}, key("a call")):
        problem = (await post(shared_http, "/usage", usage(customerId=customer), headers)).problem("duplicate_record")
        assert problem["existing"] == record


async def test_the_callers_own_retry_gets_the_first_record(shared_http: aiohttp.ClientSession, customer: str) -> None:
    first = await post(shared_http, "/usage", usage(customerId=customer, eventId="1"), key("a call"))
    for headers in (key("a call"), {"Idempotency-Key": '"a call"'}):
        again = await post(shared_http, "/usage", usage(customerId=customer, eventId="1"), headers)
        assert again.require(201) == first.require(201)
        assert (first.replayed, again.replayed) == (False, True)
        assert again.headers["Location"] == first.headers["Location"]
    assert await stored(shared_http, customer) == [first.body]


async def test_a_key_may_come_bare_or_quoted(shared_http: aiohttp.ClientSession, customer: str) -> None:
    bare, quoted = {"Idempotency-Key": "8e03978e"}, {"Idempotency-Key": '"8e03978e"'}
    (await post(shared_http, "/usage", usage(customerId=customer), bare)).require(201)
    assert (await post(shared_http, "/usage", usage(customerId=customer), quoted)).replayed


async def test_other_usage_under_a_used_key_is_recorded(shared_http: aiohttp.ClientSession, customer: str) -> None:
    reports = [
        usage(customerId=customer),
        usage(customerId=customer, unitsConsumed="2"),
        usage(customerId=customer, eventId="1"),
    ]
    records = [(await post(shared_http, "/usage", report, key("a call"))).require(201) for report in reports]
    assert len({record["requestId"] for record in records}) == 3
    assert len(await stored(shared_http, customer)) == 3


async def test_an_event_id_makes_equal_usage_distinct(shared_http: aiohttp.ClientSession, customer: str) -> None:
    records = []
    for event in (None, "1", "2", "01"):
        report = usage(customerId=customer, eventId=event)
        records.append((await post(shared_http, "/usage", report)).require(201))
    assert records[1]["requestId"] == request_id("event.v1", customer, "1")
    assert [record["eventId"] for record in records] == [None, "1", "2", "01"]
    assert len({record["requestId"] for record in records}) == 4


async def test_a_null_event_id_is_none(shared_http: aiohttp.ClientSession, customer: str) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer) | {"eventId": None})).require(201)
    assert record["requestId"] == request_id("usage.v1", customer, "storage", "1.5", "0.02")


async def test_an_event_id_with_the_same_data_is_a_duplicate(shared_http: aiohttp.ClientSession, customer: str) -> None:
    report = usage(customerId=customer, eventId="1", occurredAt="2025-01-01T00:00:00Z")
    record = (await post(shared_http, "/usage", report)).require(201)
    later = report | {"occurredAt": "2025-01-02T00:00:00Z", "unitsConsumed": "1.500"}
    assert (await post(shared_http, "/usage", later)).problem("duplicate_record")["existing"] == record


async def test_an_event_id_with_other_data_is_a_conflict(shared_http: aiohttp.ClientSession, customer: str) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer, eventId="1"), key("a call"))).require(201)
    other = usage(customerId=customer, eventId="1", service="compute", unitsConsumed="15e-1", pricePerUnit="3")
    for headers in ({}, key("a call"), key("another")):
        problem = (await post(shared_http, "/usage", other, headers)).problem("event_id_conflict")
        assert problem["existing"] == record
        assert problem["requestId"] == record["requestId"]
        assert problem["conflicts"] == [
            {"field": "service", "recorded": "storage", "submitted": "compute"},
            {"field": "pricePerUnit", "recorded": "0.02", "submitted": "3"},
        ]
    assert await stored(shared_http, customer) == [record]


async def test_an_event_id_belongs_to_its_customer(shared_http: aiohttp.ClientSession, customer: str) -> None:
    other = f"{customer}-other"
    await given_customer(shared_http, other)
    (await post(shared_http, "/usage", usage(customerId=customer, eventId="1"))).require(201)
    (await post(shared_http, "/usage", usage(customerId=other, eventId="1", unitsConsumed="9"))).require(201)


async def test_usage_of_an_unknown_customer_is_not_recorded_until_there_is_one(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    report = usage(customerId=f"{customer}-later")
    problem = (await post(shared_http, "/usage", report, key("a call"))).problem("customer_not_found")
    assert problem["requestId"] == request_id("usage.v1", f"{customer}-later", "storage", "1.5", "0.02")
    await given_customer(shared_http, f"{customer}-later")
    answer = await post(shared_http, "/usage", report, key("a call"))  # a failure is never frozen
    assert answer.require(201)
    assert not answer.replayed


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("15", "15"),
        ('"1.5e1"', "15"),
        ("1.50E+1", "15"),
        ("-0", "0"),
        ('"-0.00"', "0"),
        ("0e999999999", "0"),
        ("0.1", "0.1"),  # digit by digit: no float comes between
        ("0.100000000000000005", "0.100000000000000005"),
        ("99999999999999999999999999999999999999", "9" * 38),
        ("12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
        ("1e37", "1" + "0" * 37),
        ('"1E-18"', "0.000000000000000001"),
        ('"\\u0031\\u002e5"', "1.5"),
        ('"+1"', "1"),  # what follows is no JSON number, but may be in a string
        ('".5"', "0.5"),
        ('"1."', "1"),
        ('"0012"', "12"),
    ],
)
def test_numbers_are_taken_digit_by_digit(shared_service: Service, customer: str, spelling: str, plain: str) -> None:
    body = f'{{"customerId":"{customer}","service":"s","unitsConsumed":{spelling},"pricePerUnit":{spelling}}}'
    record = exchange(shared_service, json_request("/usage", body.encode())).require(201)
    assert (record["unitsConsumed"], record["pricePerUnit"]) == (plain, plain)
    assert fetch(shared_service, record) == record


def fetch(service: Service, record: Any) -> Any:
    """The record as it is stored."""
    address = f"/customers/{quote(record['customerId'], safe='')}/usage/{record['requestId']}"
    return exchange(service, request_head("GET", address)).require(200)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(units=plain_decimals(), price=plain_decimals())
def test_the_answer_is_what_is_stored_to_the_last_digit(
    shared_service: Service, customer: str, units: str, price: str
) -> None:
    body = json.dumps(usage(customerId=customer, eventId=str(uuid4()), unitsConsumed=units, pricePerUnit=price))
    record = exchange(shared_service, json_request("/usage", body.encode())).require(201)
    assert (record["unitsConsumed"], record["pricePerUnit"]) == (units, price)
    assert Fraction(record["amount"]) == Fraction(units) * Fraction(price)
    assert fetch(shared_service, record) == record


@pytest.mark.parametrize(
    ("occurred_at", "utc"),
    [
        ("2025-02-28T23:30:00Z", "2025-02-28T23:30:00Z"),
        ("2025-02-28T23:30:00z", "2025-02-28T23:30:00Z"),
        ("2025-02-28T23:30:00-01:00", "2025-03-01T00:30:00Z"),
        ("2025-03-01T05:30:00+05:30", "2025-03-01T00:00:00Z"),
        ("2025-02-28T23:59:59.999999Z", "2025-02-28T23:59:59.999999Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("2025-02-28 23:30:00+00:00", "2025-02-28T23:30:00Z"),
        ("2025-02-28t23:30:00.5-00:00", "2025-02-28T23:30:00.500000Z"),
        ("2024-02-29T23:59:59.9999999Z", "2024-02-29T23:59:59.999999Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999999Z"),
        ("2016-12-31T15:59:60.75-08:00", "2016-12-31T23:59:59.999999Z"),
        ("0002-01-01T00:00:00Z", "0002-01-01T00:00:00Z"),
        ("0001-01-02T00:00:00.000001Z", "0001-01-02T00:00:00.000001Z"),
        ("0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z"),
    ],
)
async def test_times_come_with_an_offset_and_are_told_in_utc(
    shared_http: aiohttp.ClientSession, customer: str, occurred_at: str, utc: str
) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer, occurredAt=occurred_at))).require(201)
    assert record["occurredAt"] == utc
    assert await stored(shared_http, customer) == [record]


@pytest.mark.parametrize("name", ["occurredAt", "occurred\\u0041t", "\\u006fccurredAt"])
async def test_what_is_finer_than_microseconds_is_cut_off_however_the_name_is_written(
    shared_service: Service, customer: str, name: str
) -> None:
    report = json.dumps(usage(customerId=customer))[:-1] + f',"{name}":"2026-01-31T23:59:59.999999999Z"}}'
    record = exchange(shared_service, json_request("/usage", report.encode())).require(201)
    assert record["occurredAt"] == "2026-01-31T23:59:59.999999Z"


async def test_usage_may_be_five_minutes_ahead_and_no_more(shared_http: aiohttp.ClientSession, customer: str) -> None:
    for minutes, accepted in ((4.9, True), (5.1, False)):
        occurred_at = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        answer = await post(shared_http, "/usage", usage(customerId=customer, eventId="1", occurredAt=occurred_at))
        if accepted:
            assert datetime.fromisoformat(answer.require(201)["occurredAt"]) == datetime.fromisoformat(occurred_at)
        else:
            answer.problem("validation_error", "/occurredAt")


async def test_every_time_that_is_taken_is_stored_as_a_finite_one(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    for occurred_at in ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000001Z"):
        await post(http, "/usage", usage(eventId=occurred_at, occurredAt=occurred_at))
    infinite = "SELECT count(*) FROM usage_records WHERE NOT isfinite(occurred_at)"
    assert await connection.fetchval(infinite) == 0


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"customerId": None}, ["/customerId"]),
        ({"customerId": "", "service": ""}, ["/customerId", "/service"]),
        ({"customerId": "x" * 129, "service": "x" * 201}, ["/customerId", "/service"]),
        ({"customerId": 1, "service": ["a"], "eventId": {}}, ["/customerId", "/eventId", "/service"]),
        ({"eventId": ""}, ["/eventId"]),
        ({"eventId": "x" * 129}, ["/eventId"]),
        ({"eventId": "a\nb"}, ["/eventId"]),
        ({"customerId": "a\u0000"}, ["/customerId"]),
        ({"service": "\u0085"}, ["/service"]),
        ({"pricePerUnit": -1}, ["/pricePerUnit"]),
        ({"unitsConsumed": True, "pricePerUnit": False}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": [], "pricePerUnit": {"a": 1}}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": "", "pricePerUnit": " 1"}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": "NaN", "pricePerUnit": "Infinity"}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": 10**38, "pricePerUnit": "1e-19"}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": "1e999999999", "pricePerUnit": "1e-999999999"}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"unitsConsumed": None, "pricePerUnit": None}, ["/pricePerUnit", "/unitsConsumed"]),
        ({"occurredAt": "2025-01-01T00:00:00"}, ["/occurredAt"]),
        ({"occurredAt": "2025-01-01"}, ["/occurredAt"]),
        ({"occurredAt": 1735689600}, ["/occurredAt"]),
        ({"occurredAt": "2025-02-30T00:00:00Z"}, ["/occurredAt"]),
        ({"occurredAt": "0001-01-01T00:00:00+14:00"}, ["/occurredAt"]),
        ({"occurredAt": "2025-01-01T00:00:00+0000"}, ["/occurredAt"]),
        ({"occurredAt": "2025-01-01T12:00:60Z"}, ["/occurredAt"]),
        ({"occurredAt": 1735689600, "eventId": 1}, ["/eventId", "/occurredAt"]),
        ({"occurredAt": "9999-12-31T23:59:59Z"}, ["/occurredAt"]),
        ({"occurredAt": ""}, ["/occurredAt"]),
        ({"customerid": "a", "amount": 1}, ["/amount", "/customerid"]),
        ({"requestId": "0" * 64}, ["/requestId"]),
    ],
    ids=str,
)
async def test_input_that_is_not_valid_is_refused_with_all_its_faults(
    shared_http: aiohttp.ClientSession, customer: str, changes: dict[str, Any], pointers: list[str]
) -> None:
    report = usage(**{"customerId": customer} | changes)
    (await post(shared_http, "/usage", report)).problem("validation_error", *pointers)
    assert await stored(shared_http, customer) == []


async def test_a_null_in_the_place_of_a_value_is_named_too(shared_http: aiohttp.ClientSession) -> None:
    report = dict.fromkeys(["customerId", "service", "unitsConsumed", "pricePerUnit"])
    (await post(shared_http, "/usage", report)).problem("validation_error", *(f"/{name}" for name in report))


async def test_one_record(shared_http: aiohttp.ClientSession, customer: str) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer))).require(201)
    path = f"/customers/{customer}/usage"
    assert (await get(shared_http, f"{path}/{record['requestId']}")).require(200) == record
    other = f"{customer}-other"
    await given_customer(shared_http, other)
    for missing in (
        f"{path}/{'0' * 64}",
        f"{path}/{record['requestId'].upper()}",
        f"{path}/{record['requestId'][:-1]}",
        f"{path}/nonsense",
        f"/customers/{other}/usage/{record['requestId']}",
    ):
        (await get(shared_http, missing)).problem("usage_not_found")
    (await get(shared_http, f"/customers/{customer}-nobody/usage/{record['requestId']}")).problem("customer_not_found")
    (await get(shared_http, f"{path}/{record['requestId']}?x=1")).problem("validation_error", "query/x")


async def test_a_time_finer_than_microseconds_is_cut_off(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    last = usage(eventId="1", occurredAt="2025-12-31T23:59:59.999999999Z")
    assert (await post(http, "/usage", last)).require(201)["occurredAt"] == "2025-12-31T23:59:59.999999Z"
    text = '"occurredAt":"2025-12-31T23:59:59.999999999Z"'
    assert (await post(http, "/usage", usage(eventId="2", service=text))).require(201)["service"] == text


async def test_each_time_too_far_ahead_is_named_though_the_clock_goes_on(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    bound = datetime.now(UTC) + timedelta(minutes=5)
    # close together at first, for the clock to go on from one to the next; the last are too far ahead on any machine
    times = [bound + timedelta(microseconds=100 * n) for n in range(4_000)]
    times += [bound + timedelta(seconds=1 + n) for n in range(1_000)]
    records = [usage(eventId=str(n), occurredAt=time.isoformat()) for n, time in enumerate(times)]
    results = (await post(http, "/usage/batch?dryRun=true", {"records": records})).require(200)["results"]
    refused = [result["problem"]["errors"] for result in results if result["outcome"] == "rejected"]
    assert refused
    assert {error[0]["pointer"] for error in refused if error} == {"/occurredAt"}
    assert all(refused)
