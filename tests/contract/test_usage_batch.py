"""`POST /usage/batch`: one outcome a record, in order, and the same ones foretold by `dryRun`."""

import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_client.contract.identity import new_customer_id
from billing_client.contract.wire import MAX_BATCH_RECORDS
from tests.calls import CODES, get, given_customer, key, post, send, stored, usage
from tests.databases import run
from tests.services import Service


async def send_batch(
    http: aiohttp.ClientSession, records: list[Any], name: str | None = None, dry_run: bool = False
) -> list[Any]:
    """The results of a batch under this key."""
    path = "/usage/batch?dryRun=true" if dry_run else "/usage/batch"
    answer = await post(http, path, {"records": records}, key(name) if name else {})
    assert answer.require(200).keys() == {"results"}
    results: list[Any] = answer.body["results"]
    assert len(results) == len(records)
    return results


def outcomes(results: list[Any]) -> list[str]:
    """The outcomes, of results each of which has either a record or a problem."""
    for result in results:
        accepted = result["outcome"] in ("recorded", "replayed", "recordable")
        assert result.keys() == {"outcome", "record" if accepted else "problem"}
    return [result["outcome"] for result in results]


def every_outcome(customer: str) -> list[Any]:
    """Records that give every outcome after `given_earlier_usage`, where they are sent under the key "batch"."""
    return [
        usage(customerId=customer, eventId="new"),
        usage(customerId=customer, eventId="before"),
        usage(customerId=customer, eventId="before", unitsConsumed="7"),
        usage(customerId=customer, eventId="mine"),
        usage(customerId=f"{customer}-nobody", eventId="new"),
        usage(customerId=customer, unitsConsumed=-1, pricePerUnit="x"),
        usage(customerId=customer, eventId="new"),
        usage(customerId=customer, eventId="new", service="compute"),
        "not an object",
        usage(customerId=customer),
    ]


EVERY_OUTCOME = [
    "recorded",
    "duplicate",
    "conflict",
    "replayed",
    "rejected",
    "rejected",
    "duplicate",
    "conflict",
    "rejected",
    "recorded",
]


async def given_earlier_usage(http: aiohttp.ClientSession, customer: str) -> tuple[Any, Any]:
    before = (await post(http, "/usage", usage(customerId=customer, eventId="before"), key("other call"))).require(201)
    mine = (await post(http, "/usage", usage(customerId=customer, eventId="mine"), key("batch"))).require(201)
    return before, mine


async def test_each_record_gets_its_outcome_in_order(shared_http: aiohttp.ClientSession, customer: str) -> None:
    before, mine = await given_earlier_usage(shared_http, customer)
    results = await send_batch(shared_http, every_outcome(customer), "batch")
    assert outcomes(results) == EVERY_OUTCOME
    new, last = results[0]["record"], results[9]["record"]
    assert results[3]["record"] == mine
    assert [results[n]["problem"]["existing"] for n in (1, 2, 6, 7)] == [before, before, new, new]
    assert results[2]["problem"]["conflicts"] == [{"field": "unitsConsumed", "recorded": "1.5", "submitted": "7"}]
    assert results[7]["problem"]["conflicts"] == [{"field": "service", "recorded": "storage", "submitted": "compute"}]
    recorded = await stored(shared_http, customer)
    assert sorted(record["requestId"] for record in recorded) == sorted(
        record["requestId"] for record in (before, mine, new, last)
    )


async def test_a_refused_record_gets_the_problem_that_a_call_of_its_own_gets(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    await given_earlier_usage(shared_http, customer)
    records = every_outcome(customer)
    results = await send_batch(shared_http, records, "batch")
    for record, result in zip(records, results, strict=True):
        if "problem" in result:
            problem = result["problem"]
            assert problem["status"] == CODES[problem["code"]]
            single = await post(shared_http, "/usage", record, key("yet another call"))
            assert single.problem(problem["code"], *(e["pointer"] for e in problem.get("errors", []))) == problem


async def test_a_dry_run_writes_nothing_and_foretells_every_outcome(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    await given_earlier_usage(shared_http, customer)
    before = await stored(shared_http, customer)
    records = every_outcome(customer)
    foretold = await send_batch(shared_http, records, "batch", dry_run=True)
    assert outcomes(foretold) == [outcome.replace("recorded", "recordable") for outcome in EVERY_OUTCOME]
    assert await stored(shared_http, customer) == before
    results = await send_batch(shared_http, records, "batch")
    assert [without_times(result, "recordable") for result in foretold] == [
        without_times(result, "recorded") for result in results
    ]


def without_times(result: Any, new: str) -> Any:
    """A result less what a later call may tell otherwise: the time of receipt, and the word for a new record."""
    if isinstance(result, dict):
        return {n: without_times(v, new) for n, v in result.items() if n not in ("recordedAt", "occurredAt")}
    return "new" if result == new else result


async def test_a_batch_retried_under_its_key_is_replayed_record_by_record(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    records = [
        usage(customerId=customer, eventId="1"),
        usage(customerId=customer),
        usage(customerId=customer, eventId="1"),
    ]
    first = await send_batch(shared_http, records, "batch")
    assert outcomes(first) == ["recorded", "recorded", "duplicate"]
    for _ in range(2):
        again = await send_batch(shared_http, records, "batch")
        assert outcomes(again) == ["replayed", "replayed", "duplicate"]
        assert [result["record"] for result in again[:2]] == [result["record"] for result in first[:2]]
        assert again[2]["problem"]["existing"] == first[0]["record"]
    for name in (None, "another batch"):
        assert outcomes(await send_batch(shared_http, records, name)) == ["duplicate"] * 3
    assert len(await stored(shared_http, customer)) == 2


async def test_what_a_batch_could_not_record_a_retry_records(shared_http: aiohttp.ClientSession, customer: str) -> None:
    later = f"{customer}-later"
    records = [usage(customerId=customer), usage(customerId=later)]
    assert outcomes(await send_batch(shared_http, records, "batch")) == ["recorded", "rejected"]
    await given_customer(shared_http, later)
    assert outcomes(await send_batch(shared_http, records, "batch")) == ["replayed", "recorded"]


async def test_a_single_call_and_a_batch_under_one_key_know_each_other(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    (await post(shared_http, "/usage", usage(customerId=customer), key("a call"))).require(201)
    assert outcomes(await send_batch(shared_http, [usage(customerId=customer)], "a call")) == ["replayed"]


async def test_one_bad_record_does_not_harm_its_neighbours(shared_http: aiohttp.ClientSession, customer: str) -> None:
    bad = [
        b"null",
        b"[]",
        b"1e999999999",
        b'"\\\\"',
        b"{}",
        b'{"customerId":"a","customerId":"b"}',
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"customerId":"\xff"}',
    ]
    good = [
        f'{{"customerId":"{customer}","service":"s","unitsConsumed":{n},"pricePerUnit":1}}' for n in range(len(bad))
    ]
    pairs = b",".join(one.encode() + b"," + other for one, other in zip(good, bad, strict=True))
    answer = await post(shared_http, "/usage/batch", b'{"records":[' + pairs + b"]}")
    if answer.status == 200:  # bytes that are no text may also be refused as a whole, and then nothing is recorded
        assert outcomes(answer.body["results"]) == ["recorded", "rejected"] * len(bad)
    else:
        answer.problem("validation_error", "")
        assert await stored(shared_http, customer) == []


async def test_an_empty_batch(shared_http: aiohttp.ClientSession) -> None:
    assert await send_batch(shared_http, []) == []


async def test_a_batch_may_hold_ten_thousand_records_and_no_more(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    records = [usage(customerId=customer, eventId=str(number)) for number in range(MAX_BATCH_RECORDS)]
    results = await send_batch(shared_http, records, "batch")
    assert set(outcomes(results)) == {"recorded"}
    assert [result["record"]["eventId"] for result in results] == [record["eventId"] for record in records]
    assert set(outcomes(await send_batch(shared_http, records, "batch"))) == {"replayed"}
    too_many = [*records, usage(customerId=customer, eventId="one more")]
    (await post(shared_http, "/usage/batch", {"records": too_many})).problem("validation_error", "/records")
    assert MAX_BATCH_RECORDS == 10_000


@pytest.mark.parametrize(
    ("path", "body", "pointers"),
    [
        ("/usage/batch", {}, ["/records"]),
        ("/usage/batch", {"records": {}}, ["/records"]),
        ("/usage/batch", {"records": None}, ["/records"]),
        ("/usage/batch", {"records": [], "dryRun": True}, ["/dryRun"]),
        ("/usage/batch", [], [""]),
        ("/usage/batch", [usage()], [""]),
        ("/usage/batch", b'{"records":[],"records":[]}', ["/records"]),
        ("/usage/batch", b'{"records":[],"\\u0072ecords":[]}', ["/records"]),
        ("/usage/batch?dryRun=yes", {"records": []}, ["query/dryRun"]),
        ("/usage/batch?dryRun=", {"records": []}, ["query/dryRun"]),
        ("/usage/batch?dry_run=true", {"records": []}, ["query/dry_run"]),
        ("/usage/batch?dryRun=true&dryRun=false", {"records": []}, ["query/dryRun"]),
        ("/usage?dryRun=true", usage(), ["query/dryRun"]),
    ],
    ids=str,
)
async def test_a_batch_that_is_not_valid(
    shared_http: aiohttp.ClientSession, path: str, body: Any, pointers: list[str]
) -> None:
    (await post(shared_http, path, body)).problem("validation_error", *pointers)


async def test_a_dry_run_that_is_declined_is_none(shared_http: aiohttp.ClientSession, customer: str) -> None:
    answer = await send(shared_http, "POST", "/usage/batch?dryRun=false", {"records": [usage(customerId=customer)]})
    assert outcomes(answer.require(200)["results"]) == ["recorded"]


EVENTS = st.sampled_from([None, "1", "2"])
UNITS = st.sampled_from(["1", "1.0", "2"])
REPORTS = st.lists(st.tuples(EVENTS, UNITS, st.sampled_from(["known", "unknown"])), max_size=8)


@settings(max_examples=30, deadline=None)
@given(reports=REPORTS)
def test_a_batch_does_what_single_calls_in_order_do(
    shared_service: Service, reports: list[tuple[Any, str, str]]
) -> None:
    run(compare_batch_with_single_calls(shared_service, reports))


async def compare_batch_with_single_calls(service: Service, reports: list[tuple[Any, str, str]]) -> None:
    async with aiohttp.ClientSession(service.url) as http:
        batch_customer, single_customer = new_customer_id(), new_customer_id()
        ids = {"known": (batch_customer, single_customer), "unknown": (f"{batch_customer}-", f"{single_customer}-")}
        for id_ in ids["known"]:
            await given_customer(http, id_)
        records = [usage(customerId=ids[who][0], eventId=event, unitsConsumed=units) for event, units, who in reports]
        results = await send_batch(http, records)
        codes = [result.get("problem", {}).get("code") for result in results]
        singles = [
            await post(http, "/usage", usage(customerId=ids[who][1], eventId=event, unitsConsumed=units))
            for event, units, who in reports
        ]
        assert codes == [answer.body.get("code") for answer in singles]
        assert len(await stored(http, batch_customer)) == len(await stored(http, single_customer))
        assert (await get(http, f"/customers/{batch_customer}-/usage")).problem("customer_not_found")


@pytest.mark.parametrize("depth", [900, 990, 5_000])
@pytest.mark.parametrize("name", ["x", "unitsConsumed"])
async def test_a_record_nested_too_deeply_harms_itself_alone(
    http: aiohttp.ClientSession, name: str, depth: int
) -> None:
    await given_customer(http)
    good = json.dumps(usage(eventId="1", service='brackets in text: [[{"')).encode()
    deep = b'{"customerId":"acme","' + name.encode() + b'":' + b"[" * depth + b"]" * depth + b"}"
    answer = await post(http, "/usage/batch", b'{"records":[' + good + b"," + deep + b"," + good + b"]}")
    outcomes = [result["outcome"] for result in answer.require(200)["results"]]
    assert outcomes == ["recorded", "rejected", "duplicate"]


@pytest.mark.parametrize(
    "body", [b'{"records":' + b"[" * 5_000, b"[" * 200_000, b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"]
)
async def test_a_deeply_nested_body_that_is_no_batch_is_refused(
    shared_http: aiohttp.ClientSession, body: bytes
) -> None:
    answer = await post(shared_http, "/usage/batch", body)
    assert answer.status == 400
    assert answer.body["code"] == "validation_error"


async def test_a_batch_names_a_bounded_number_of_errors(shared_http: aiohttp.ClientSession, customer: str) -> None:
    bad = {f"field{number}": 0 for number in range(200)}
    records = [bad] * 120 + [usage(customerId=customer)]
    results = await send_batch(shared_http, records)
    named = [len(result["problem"]["errors"]) for result in results[:-1]]
    assert named == [100] * 100 + [1] * 20
    assert results[0]["problem"]["detail"].endswith("; at most 100 errors are named")
    assert results[-2]["problem"]["detail"] == "/field0: is not a field of this object; only the first error is named"
    assert results[-1]["outcome"] == "recorded"
    single = (await post(shared_http, "/usage", bad)).problem("validation_error", *[f"/field{n}" for n in range(100)])
    assert single["errors"] == results[0]["problem"]["errors"]


@pytest.mark.parametrize("element", ["0", "{}", "[[]]", '"\\ud800"'])
async def test_a_batch_of_little_but_scraps_is_refused_as_one(
    shared_http: aiohttp.ClientSession, customer: str, element: str
) -> None:
    sound = json.dumps(usage(customerId=customer))
    few = ",".join([element] * 999 + [sound])
    results = (await post(shared_http, "/usage/batch", b'{"records":[%b]}' % few.encode())).require(200)["results"]
    assert outcomes(results) == ["rejected"] * 999 + ["recorded"]
    many = ",".join([element] * 9_999 + [sound])
    answer = await post(shared_http, "/usage/batch", b'{"records":[%b]}' % many.encode())
    assert "10000 elements" in answer.problem("validation_error", "/records")["detail"]


async def test_an_error_quotes_a_short_piece_of_what_was_sent(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    record = usage(customerId=customer) | {"x" * 1_000: 0}
    answer = await post(shared_http, "/usage", record)
    answer.problem("validation_error", f"/{'x' * 64}…")
    answer = await post(shared_http, "/usage", usage(customerId="c" * 128))
    assert answer.problem("customer_not_found")["detail"] == f"There is no customer '{'c' * 64}…'."


async def test_a_record_of_many_scraps_harms_no_other(shared_http: aiohttp.ClientSession, customer: str) -> None:
    scraps = usage(customerId=customer, eventId=[0] * 20_000)
    results = await send_batch(shared_http, [scraps, usage(customerId=customer)])
    assert [result["outcome"] for result in results] == ["rejected", "recorded"]
