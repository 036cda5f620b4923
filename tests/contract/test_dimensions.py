"""Dimensions: what else usage is billed or reported by."""

import csv
import io
import json
from typing import Any

import aiohttp
import pytest

from tests.calls import get, key, post, send, stored, usage
from tests.contract.test_usage import MEMBERS, request_id

PAIRS = {"region": "eu", "model": "large", "project": "p-7"}


def raw(customer: str, dimensions: str, **changes: Any) -> bytes:
    """A report with these dimensions, as they are."""
    return json.dumps(usage(customerId=customer, **changes))[:-1].encode() + f', "dimensions": {dimensions}}}'.encode()


async def test_a_record_has_its_dimensions_by_name(shared_http: aiohttp.ClientSession, customer: str) -> None:
    record = (await post(shared_http, "/usage", usage(customerId=customer, dimensions=PAIRS))).require(201)
    assert record.keys() == MEMBERS | {"dimensions"}
    assert list(record["dimensions"].items()) == sorted(PAIRS.items())
    assert await stored(shared_http, customer) == [record]
    path = f"/customers/{customer}/usage/{record['requestId']}"
    assert (await get(shared_http, path)).require(200) == record
    voided = (await post(shared_http, f"{path}/void", {"reason": "a test"})).require(200)
    assert voided["dimensions"] == PAIRS


async def test_without_an_event_id_they_are_part_of_what_was_used(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    spellings = [
        {"region": "eu", "model": "large"},
        {"model": "large", "region": "eu"},
        {"model": "large", "region": "us"},
        {"model": "large"},
        {},
        None,
    ]
    answers = [
        await post(shared_http, "/usage", usage(customerId=customer) | {"dimensions": given}) for given in spellings
    ]
    assert [answer.status for answer in answers] == [201, 409, 201, 201, 201, 409]
    facts = [customer, "storage", "1.5", "0.02"]
    assert answers[0].body["requestId"] == request_id("usage.v2", *facts, "model", "large", "region", "eu")
    assert answers[1].problem("duplicate_record")["existing"] == answers[0].body
    assert answers[4].body["requestId"] == request_id("usage.v1", *facts)
    assert answers[4].body.keys() == MEMBERS


async def test_with_an_event_id_others_are_a_conflict_named_one_by_one(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    report = usage(customerId=customer, eventId="e", dimensions=PAIRS)
    first = (await post(shared_http, "/usage", report, key("a call"))).require(201)
    assert first["requestId"] == request_id("event.v1", customer, "e")
    assert (await post(shared_http, "/usage", report, key("a call"))).replayed
    assert (await post(shared_http, "/usage", report)).problem("duplicate_record")["existing"] == first
    others = {"region": "us", "model": "large", "a": "b"}
    problem = (await post(shared_http, "/usage", report | {"service": "x", "dimensions": others})).problem(
        "event_id_conflict"
    )
    assert problem["existing"] == first
    assert problem["conflicts"] == [
        {"field": "service", "recorded": "storage", "submitted": "x"},
        {"field": "dimensions.a", "recorded": "", "submitted": "b"},
        {"field": "dimensions.project", "recorded": "p-7", "submitted": ""},
        {"field": "dimensions.region", "recorded": "eu", "submitted": "us"},
    ]
    without = usage(customerId=customer, eventId="e")
    problem = (await post(shared_http, "/usage", without)).problem("event_id_conflict")
    assert [each["field"] for each in problem["conflicts"]] == [f"dimensions.{name}" for name in sorted(PAIRS)]


async def test_in_a_batch_some_records_have_them(shared_http: aiohttp.ClientSession, customer: str) -> None:
    given = [{}, PAIRS, {}, {"a": 'line\u2028break, "quoted" \\ 𝄞'}, PAIRS | {"x" * 64: "ü" * 200}]
    records = [
        usage(customerId=customer, eventId=str(number), dimensions=pairs or None) for number, pairs in enumerate(given)
    ]
    sent = await post(shared_http, "/usage/batch", {"records": [*records, records[1]]}, key("a batch"))
    results = sent.require(200)["results"]
    assert [result["outcome"] for result in results] == ["recorded"] * 5 + ["duplicate"]
    assert [result["record"].get("dimensions", {}) for result in results[:5]] == given
    by_event = {record["eventId"]: record.get("dimensions", {}) for record in await stored(shared_http, customer)}
    assert [by_event[str(number)] for number in range(5)] == given
    again = (await post(shared_http, "/usage/batch", {"records": records}, key("a batch"))).require(200)["results"]
    assert [result["outcome"] for result in again] == ["replayed"] * 5


@pytest.mark.parametrize(
    ("dimensions", "pointers"),
    [
        ('"large"', ["/dimensions"]),
        ('["model"]', ["/dimensions"]),
        (json.dumps({str(n): "x" for n in range(17)}), ["/dimensions"]),
        ('{"model": "a", "model": "a"}', ["/dimensions"]),
        ('{"mod\\u0065l": "a", "model": "b"}', ["/dimensions"]),
        ('{"": "a", "b": "", "c": "fine"}', ["/dimensions/", "/dimensions/b"]),
        ('{"a": 1, "b": null, "c/~d": {}}', ["/dimensions/a", "/dimensions/b", "/dimensions/c~1~0d"]),
        (json.dumps({"n" * 65: "v", "n": "v" * 201}), ["/dimensions/n", f"/dimensions/{'n' * 64}…"]),
        ('{"a\\u0000": "b", "c": "d\\n", "e": "\\u009f"}', ["/dimensions/a\0", "/dimensions/c", "/dimensions/e"]),
    ],
)
async def test_what_is_not_valid_is_refused_pair_by_pair(
    shared_http: aiohttp.ClientSession, customer: str, dimensions: str, pointers: list[str]
) -> None:
    answer = await send(shared_http, "POST", "/usage", raw(customer, dimensions))
    answer.problem("validation_error", *pointers)
    assert await stored(shared_http, customer) == []


async def test_names_may_be_those_of_fields(shared_http: aiohttp.ClientSession, customer: str) -> None:
    pairs = {"service": "s", "eventId": "e", "dimensions": "d", "unitsConsumed": "1"}
    record = (await post(shared_http, "/usage", usage(customerId=customer, dimensions=pairs))).require(201)
    assert (record["dimensions"], record["service"], record["eventId"]) == (pairs, "storage", None)
    doubled = await send(shared_http, "POST", "/usage", raw(customer, '{"a": "b"}, "dimensions": {"a": "b"}'))
    doubled.problem("validation_error", "/dimensions")


async def test_an_export_has_them(shared_http: aiohttp.ClientSession, customer: str) -> None:
    for pairs in (PAIRS, None):
        (await post(shared_http, "/usage", usage(customerId=customer, dimensions=pairs))).require(201)
    async with shared_http.get(f"/usage/export?customerId={customer}") as response:
        exported = [json.loads(line) for line in (await response.read()).splitlines()]
    assert exported == await stored(shared_http, customer)


@pytest.mark.service_alone
async def test_an_export_in_csv_has_them_as_json(shared_http: aiohttp.ClientSession, customer: str) -> None:
    for pairs in (PAIRS, None):
        (await post(shared_http, "/usage", usage(customerId=customer, dimensions=pairs))).require(201)
    async with shared_http.get(f"/usage/export?format=csv&customerId={customer}") as response:
        rows = list(csv.DictReader(io.StringIO(await response.text(), newline="")))
    assert [row["dimensions"] for row in rows] == [json.dumps(PAIRS, sort_keys=True, separators=(",", ":")), ""]
