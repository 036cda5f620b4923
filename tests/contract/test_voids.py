"""Taking a record out of what is owed, once and for good."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, is_now, post, usage

REASON = {"reason": "billed to the wrong project"}


async def void(http: aiohttp.ClientSession, record: Any, body: Any = None) -> Answer:
    return await post(http, f"/customers/{record['customerId']}/usage/{record['requestId']}/void", body or REASON)


async def totals(http: aiohttp.ClientSession) -> tuple[int, str]:
    total = (await get(http, "/customers/acme/summary")).require(200)["total"]
    return total["records"], total["amount"]


@pytest.fixture
async def record(http: aiohttp.ClientSession) -> Any:
    await given_customer(http)
    return (await post(http, "/usage", usage(eventId="1"), {"Idempotency-Key": "first"})).require(201)


async def test_a_voided_record_stays_and_no_longer_counts(http: aiohttp.ClientSession, record: Any) -> None:
    before = datetime.now(UTC)
    voided = (await void(http, record, REASON | {"voidedFor": "Ada"})).require(200)
    assert is_now(voided["voidedAt"], since=before)
    assert voided == record | {
        "voidedAt": voided["voidedAt"],
        "voidReason": REASON["reason"],
        "voidedBy": "anonymous",
        "voidedFor": "Ada",
    }
    assert await totals(http) == (0, "0")
    stored = record | {"voidedAt": voided["voidedAt"]}
    assert (await get(http, f"/customers/acme/usage/{record['requestId']}")).require(200) == stored
    assert (await get(http, "/customers/acme/usage")).require(200)["data"] == [stored]


async def test_a_second_void_answers_as_the_first(http: aiohttp.ClientSession, record: Any) -> None:
    first = (await void(http, record)).require(200)
    assert first["voidedBy"] == "anonymous"
    assert (await void(http, record, {"reason": "another", "voidedFor": "Bob"})).require(200) == first


async def test_a_hundred_voids_at_once_count_once(http: aiohttp.ClientSession, record: Any, settings: Settings) -> None:
    (await post(http, "/usage", usage(eventId="2"))).require(201)
    answers = await asyncio.gather(*(void(http, record) for _ in range(100)))
    assert len({str(answer.require(200)) for answer in answers}) == 1
    assert await totals(http) == (1, "0.03")
    assert (await verify_ledger(settings)).differences == []


async def test_voided_usage_sent_again_is_still_a_duplicate(http: aiohttp.ClientSession, record: Any) -> None:
    voided_at = (await void(http, record)).require(200)["voidedAt"]
    duplicate = (await post(http, "/usage", usage(eventId="1"))).problem("duplicate_record")
    assert duplicate["existing"] == record | {"voidedAt": voided_at}
    batch = (await post(http, "/usage/batch", {"records": [usage(eventId="1")]})).require(200)
    assert batch["results"][0]["problem"]["existing"]["voidedAt"] == voided_at
    replayed = await post(http, "/usage", usage(eventId="1"), {"Idempotency-Key": "first"})
    assert (replayed.require(201), replayed.replayed) == (record | {"voidedAt": voided_at}, True)
    assert await totals(http) == (0, "0")


async def test_voids_summaries_and_repeats_at_once_stay_exact(http: aiohttp.ClientSession, settings: Settings) -> None:
    await given_customer(http)
    records = [(await post(http, "/usage", usage(eventId=str(n)))).require(201) for n in range(40)]

    async def watch() -> None:
        for _ in range(30):
            counted, amount = await totals(http)
            assert float(amount) == pytest.approx(counted * 0.03)  # whatever the moment, the parts fit
            assert 20 <= counted <= 40

    await asyncio.gather(
        watch(),
        *(void(http, record) for record in records[:20] for _ in range(3)),
        *(post(http, "/usage", usage(eventId=str(n))) for n in range(40) for _ in range(3)),
    )
    assert await totals(http) == (20, "0.6")
    assert (await verify_ledger(settings)).differences == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/reason"),
        ({"reason": ""}, "/reason"),
        ({"reason": "a\nb"}, "/reason"),
        ({"reason": 1}, "/reason"),
        ({"reason": "x" * 1001}, "/reason"),
        ({"reason": "x", "voidedFor": ""}, "/voidedFor"),
        ({"reason": "x", "who": "me"}, "/who"),
    ],
)
async def test_a_bad_reason_voids_nothing(http: aiohttp.ClientSession, record: Any, body: Any, pointer: str) -> None:
    answer = await post(http, f"/customers/acme/usage/{record['requestId']}/void", body)
    answer.problem("validation_error", pointer)
    assert await totals(http) == (1, "0.03")


async def test_what_is_not_there_cannot_be_voided(http: aiohttp.ClientSession, record: Any) -> None:
    await given_customer(http, "other")
    for missing in ("0" * 64, "nonsense", record["requestId"].upper()):
        (await post(http, f"/customers/acme/usage/{missing}/void", REASON)).problem("usage_not_found")
    (await void(http, record | {"customerId": "other"})).problem("usage_not_found")
    (await void(http, record | {"customerId": "nobody"})).problem("customer_not_found")
    assert await totals(http) == (1, "0.03")


async def test_verify_names_every_difference(
    http: aiohttp.ClientSession,
    record: Any,
    settings: Settings,
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    (await post(http, "/usage", usage(service="plain"))).require(201)
    report = await verify_ledger(settings)
    assert (report.records, report.rollups, report.differences) == (2, 4, [])
    await connection.execute("UPDATE usage_rollups SET amount = amount + 0.01 WHERE service = 'storage'")
    await connection.execute("DELETE FROM usage_rollups WHERE service = 'plain' AND bucket_minutes = 15")
    await connection.execute("UPDATE usage_records SET units_consumed = 2 WHERE service = 'plain'")
    differences = (await verify_ledger(settings)).differences
    assert sum("'storage'" in line and "amount 0.04; the records say" in line for line in differences) == 2
    assert sum("'plain'" in line and "the sum says 0 records" in line for line in differences) == 1
    assert sum("should be" in line for line in differences) == 1  # the request id no longer fits the units
