"""A customer's month: its lines, its digest, and what changed since."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_client.contract.statements.structs import Statement
from billing_service.settings import Settings
from tests.calls import get, given_customer, is_now, post
from tests.ledgers import FOCUS_SAMPLE, focus_usage, label, made_up_usage, record_all, sums_by
from tests.services import running_service
from tests.statements import digest_of, fetch, issue, record, statement, void

pytestmark = pytest.mark.service_alone  # the fake has no statements
NOTHING = sha256(b"").hexdigest()
NOW = datetime.now(UTC)
THIS_MONTH = f"{NOW:%Y-%m}"


ROLLUPS = """
    INSERT INTO usage_rollups (customer_id, bucket_minutes, bucket, service, records, units, amount, voided)
    SELECT customer_id, grain, date_bin(grain * interval '1 minute', occurred_at, '2000-01-01Z'), service,
        count(*) FILTER (WHERE voided_at IS NULL),
        coalesce(sum(units_consumed) FILTER (WHERE voided_at IS NULL), 0),
        coalesce(sum(units_consumed * price_per_unit) FILTER (WHERE voided_at IS NULL), 0), count(voided_at)
    FROM usage_records LEFT JOIN usage_voids USING (customer_id, request_id)
        CROSS JOIN unnest(ARRAY[15, 180]::smallint[]) AS grain
    GROUP BY 1, 2, 3, 4
"""


def line(service: str, price: str, records: int, units: str, amount: str) -> dict[str, Any]:
    return {"service": service, "pricePerUnit": price, "records": records, "units": units, "amount": amount}


def sums(records: int, units: str, amount: str) -> dict[str, Any]:
    return {"records": records, "units": units, "amount": amount}


async def test_a_month_without_usage(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    before = datetime.now(UTC)
    answer = await statement(http, "2026-02")
    assert is_now(answer.pop("asOf"), since=before)
    assert answer == {
        "customerId": "acme",
        "customerName": "Acme",
        "month": "2026-02",
        "timezone": "UTC",
        "from": "2026-02-01T00:00:00Z",
        "to": "2026-03-01T00:00:00Z",
        "currency": "USD",
        "rounding": {"mode": "half_up", "minorUnit": 2},
        "status": "provisional",
        "digest": NOTHING,
        "digestKind": "merkle.v1",
        "lines": [],
        "total": {"records": 0, "amount": "0", "rounded": "0.00"},
        "late": [],
        "voided": {"data": [], "more": False, "total": {"records": 0, "amount": "0"}},
    }


async def test_a_line_for_each_price_of_a_service(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    records = [
        await record(http, "1", "2026-01-31T23:59:59.999999Z", service="storage", pricePerUnit="10"),
        await record(http, "2", "2026-01-01T00:00:00Z", service="storage", pricePerUnit="9.5"),
        await record(http, "3", "2026-01-15T00:00:00Z", service="storage", pricePerUnit="9.50", unitsConsumed="2"),
        await record(http, "4", "2026-01-15T00:00:00Z", service="Compute", pricePerUnit="0.000000000000000001"),
        await record(http, "5", "2026-01-15T00:00:00Z", service="api", pricePerUnit="0"),
    ]
    await record(http, "6", "2026-02-01T00:00:00Z")
    await record(http, "7", "2025-12-31T23:59:59.999999Z")
    answer = await statement(http, "2026-01")
    assert answer["lines"] == [
        line("Compute", "0.000000000000000001", 1, "1.5", "0.0000000000000000015"),
        line("api", "0", 1, "1.5", "0"),
        line("storage", "9.5", 2, "3.5", "33.25"),
        line("storage", "10", 1, "1.5", "15"),
    ]
    assert answer["total"] == {"records": 5, "amount": "48.2500000000000000015", "rounded": "48.25"}
    assert answer["digest"] == digest_of(records, answer["from"])
    decoded = msgspec.json.decode(msgspec.json.encode(answer), type=Statement[Decimal])
    assert decoded.total.amount == sum(line.units * line.price_per_unit for line in decoded.lines)


async def test_the_largest_amount_beside_the_smallest(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number in ("9" * 38, "0.000000000000000001"):
        await record(http, number, NOW.isoformat(), unitsConsumed=number, pricePerUnit=number)
    assert (await statement(http, THIS_MONTH))["total"]["amount"] == f"{(10**38 - 1) ** 2}.{'1':0>36}"


async def test_any_month_in_any_zone_is_what_the_records_add_up_to(http: aiohttp.ClientSession) -> None:
    usages = made_up_usage(1_500, seed=5)
    records = await record_all(http, usages)
    seen = 0
    for zone, month in (("UTC", "2026-01"), ("Europe/Berlin", "2026-03"), ("Asia/Kathmandu", "2026-05")):
        within = [u for u in usages if label(u, "month", zone) == month]
        ids = {u["eventId"] for u in within}
        answer = await statement(http, month, timezone=zone)
        found = {
            (li["service"], Decimal(li["pricePerUnit"])): (li["records"], Decimal(li["units"]), Decimal(li["amount"]))
            for li in answer["lines"]
        }
        assert found == sums_by(within, lambda u: (u["service"], Decimal(u["pricePerUnit"])))
        assert answer["digest"] == digest_of([r for r in records if r["eventId"] in ids], answer["from"])
        (summary,) = (
            group
            for group in (await get(http, f"/customers/acme/summary?groupBy=month&timezone={quote(zone)}")).require(
                200
            )["groups"]
            if group["month"] == month
        )
        assert (answer["total"]["records"], answer["total"]["amount"]) == (summary["records"], summary["amount"])
        seen += len(within)
    assert seen > 300


@pytest.mark.parametrize(
    ("month", "zone", "start", "end"),
    [
        ("2026-03", "Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
        ("2026-10", "Europe/Berlin", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
        ("2025-12", "Asia/Kathmandu", "2025-11-30T18:15:00Z", "2025-12-31T18:15:00Z"),
        # the first hour of November 2020 came twice in Havana: the month begins with the first
        ("2020-11", "America/Havana", "2020-11-01T04:00:00Z", "2020-12-01T05:00:00Z"),
        # the first hour of October 2000 was left out in Asunción
        ("2000-10", "America/Asuncion", "2000-10-01T04:00:00Z", "2000-11-01T03:00:00Z"),
    ],
)
async def test_a_month_begins_and_ends_at_the_zones_midnight(
    http: aiohttp.ClientSession, month: str, zone: str, start: str, end: str
) -> None:
    await given_customer(http)
    instants = [datetime.fromisoformat(start), datetime.fromisoformat(end)]
    assert [t.astimezone(ZoneInfo(zone)).day for t in instants] == [1, 1]
    first = await record(http, "first", start)
    last = await record(http, "last", (instants[1] - timedelta(microseconds=1)).isoformat())
    await record(http, "before", (instants[0] - timedelta(microseconds=1)).isoformat())
    await record(http, "after", end)
    answer = await statement(http, month, timezone=zone)
    assert (answer["from"], answer["to"], answer["timezone"]) == (start, end, zone)
    assert answer["digest"] == digest_of([first, last], start)


@pytest.mark.parametrize(
    ("currency", "minor_unit", "amounts", "total", "rounded"),
    [
        ("USD", 2, ["0.005"], "0.005", "0.01"),
        ("USD", 2, ["0.004", "0.004"], "0.008", "0.01"),  # rounded once: each line by itself would be nothing
        ("USD", 2, ["0.0049999999"], "0.0049999999", "0.00"),
        ("USD", 2, ["0.025"], "0.025", "0.03"),  # half up, not half even
        ("JPY", 0, ["1.5", "1"], "2.5", "3"),
        ("JPY", 0, ["0.4999"], "0.4999", "0"),
        ("KWD", 3, ["1.0005"], "1.0005", "1.001"),
        ("CLF", 4, ["1.00005"], "1.00005", "1.0001"),
        ("USD", 2, ["9" * 38, "0.005"], "9" * 38 + ".005", "9" * 38 + ".01"),
    ],
)
async def test_the_total_is_rounded_once_half_up_to_the_currencys_minor_unit(
    database_url: str, currency: str, minor_unit: int, amounts: list[str], total: str, rounded: str
) -> None:
    with running_service(Settings(database_url=database_url, currency=currency)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            for number, amount in enumerate(amounts):
                await record(http, f"{number}", "2026-01-01T00:00:00Z", unitsConsumed=amount, pricePerUnit="1")
                await record(http, f"{number} free", "2026-01-01T00:00:00Z", pricePerUnit="0", service=f"s{number}")
            answer = await statement(http, "2026-01")
    assert answer["currency"] == currency
    assert answer["rounding"] == {"mode": "half_up", "minorUnit": minor_unit}
    assert answer["total"]["rounded"] == rounded
    assert answer["total"]["amount"] == total


async def test_voided_and_late_records_are_to_be_seen(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    counted = await record(http, "1", "2026-01-05T00:00:00Z")
    twice = await record(http, "2", "2026-01-06T00:00:00Z", unitsConsumed="7")
    wrong = await record(http, "3", "2026-01-07T00:00:00Z", service="compute")
    voided = [await void(http, wrong, "test run", "ann"), await void(http, twice)]
    answer = await statement(http, "2026-01")
    assert answer["voided"] == {"data": voided, "more": False, "total": {"records": 2, "amount": "0.17"}}
    assert answer["lines"] == [line("storage", "0.02", 1, "1.5", "0.03")]
    assert answer["digest"] == digest_of([counted], answer["from"])
    assert answer["late"] == answer["lines"]  # recorded when that month was long over


async def test_what_was_recorded_within_its_month_is_not_late(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    stored = await record(http, "1", NOW.isoformat())
    answer = await statement(http, THIS_MONTH)
    assert answer["digest"] == digest_of([stored], answer["from"])
    assert answer["late"] == []


async def test_a_later_statement_says_what_changed_since(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    twice = await record(http, "1", "2026-01-05T00:00:00Z", unitsConsumed="2")
    kept = [
        await record(http, "2", "2026-01-05T00:00:00Z", service="compute"),
        await record(http, "3", "2026-01-05T00:00:00Z", pricePerUnit="1"),
    ]
    await void(http, await record(http, "4", "2026-01-05T00:00:00Z"))
    before = await issue(http, "2026-01")

    late = [
        await record(http, "5", "2026-01-31T00:00:00Z", unitsConsumed="0.25", pricePerUnit="1"),
        await record(http, "6", "2026-01-01T00:00:00Z", pricePerUnit="1.337", service="egress"),
    ]
    voided = await void(http, twice)
    await void(http, await record(http, "7", "2026-01-09T00:00:00Z", service="mistake"))
    await record(http, "8", "2026-02-01T00:00:00Z")  # of another month
    answer = await statement(http, "2026-01", since=before["digest"])

    changes = answer["changes"]
    assert (changes["since"], changes["issuedAt"]) == (before["digest"], before["issuedAt"])
    assert (changes["number"], changes["digestKind"]) == (before["number"], "merkle.v1")
    zero = sums(0, "0", "0")
    assert changes["lines"] == [
        {"service": "egress", "pricePerUnit": "1.337", "before": zero, "after": sums(1, "1.5", "2.0055")},
        {"service": "storage", "pricePerUnit": "0.02", "before": sums(1, "2", "0.04"), "after": zero},
        {
            "service": "storage",
            "pricePerUnit": "1",
            "before": sums(1, "1.5", "1.5"),
            "after": sums(2, "1.75", "1.75"),
        },
    ]
    assert changes["total"] == {
        "before": before["total"],
        "after": answer["total"],
        "difference": {"records": 1, "amount": "2.2155", "rounded": "2.22"},
    }
    assert before["total"] == {"records": 3, "amount": "1.57", "rounded": "1.57"}
    assert changes["recorded"] == late
    assert changes["voided"] == [voided]  # what came and went meanwhile changed nothing
    assert changes["more"] is False
    assert answer["digest"] == digest_of([*kept, *late], answer["from"])
    assert "changes" not in before


async def test_less_than_before_is_told_too(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    stored = await record(http, "1", "2026-01-05T00:00:00Z", unitsConsumed="1", pricePerUnit="0.125")
    before = await issue(http, "2026-01")
    await void(http, stored)
    changes = (await statement(http, "2026-01", since=before["digest"]))["changes"]
    assert changes["total"]["difference"] == {"records": -1, "amount": "-0.125", "rounded": "-0.13"}


async def test_what_was_under_way_when_a_statement_was_issued_is_a_later_change(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    stored = await record(http, "1", "2026-01-05T00:00:00Z")
    insert = """
        SELECT record_one_usage('acme', $1, 'slow', 'storage', 1, 1, '2026-01-06Z', $2, NULL, NULL, NULL)
    """
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(insert, bytes(32), datetime.now(UTC))
    before = await issue(http, "2026-01")
    await transaction.commit()
    assert before["digest"] == digest_of([stored], before["from"])
    changes = (await statement(http, "2026-01", since=before["digest"]))["changes"]
    assert [r["eventId"] for r in changes["recorded"]] == ["slow"]
    assert changes["recorded"][0]["recordedAt"] < changes["issuedAt"]


async def test_a_statement_is_of_one_moment_while_others_write(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    stored: list[Any] = []

    async def write() -> None:
        for number in range(150):
            new = await record(http, str(number), "2026-01-05T00:00:00Z", service=f"service {number % 7}")
            stored.append(new)

    writer = asyncio.create_task(write())
    answers = []
    while not writer.done():
        answers.append((await post(http, "/customers/acme/statements", {"month": "2026-01"})).body)
    await writer
    assert len({answer["digest"] for answer in answers}) > 3
    for answer in answers:
        count = answer["total"]["records"]
        assert answer["digest"] == digest_of(stored[:count], answer["from"])
        changes = (await statement(http, "2026-01", since=answer["digest"]))["changes"]
        assert [r["requestId"] for r in changes["recorded"]] == [r["requestId"] for r in stored[count:]]


async def test_more_than_a_statement_lists(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    fill = """
        INSERT INTO usage_records
        SELECT 'acme', sha256(n::text::bytea), n::text, 'storage', 1, 0.001, '2026-01-06Z',
            $1::timestamptz + n * interval '1 millisecond', NULL
        FROM generate_series(1, 20100) n
    """
    await connection.execute(fill, datetime.now(UTC) - timedelta(minutes=1))
    await connection.execute("""
        INSERT INTO usage_voids SELECT 'acme', request_id, 'reason', 'who', recorded_at
        FROM usage_records WHERE event_id::int <= 10050
    """)
    await connection.execute(ROLLUPS)
    before = await issue(http, "2026-01")
    assert before["total"] == {"records": 10_050, "amount": "10.05", "rounded": "10.05"}
    assert before["voided"]["total"] == {"records": 10_050, "amount": "10.05"}
    assert before["voided"]["more"] is True
    assert [r["eventId"] for r in before["voided"]["data"]] == [str(number) for number in range(51, 10_051)]

    late = await record(http, "late", "2026-01-31T00:00:00Z")
    counted = await connection.fetchval("SELECT request_id FROM usage_records WHERE event_id = '20100'")
    voided = await void(http, {"customerId": "acme", "requestId": counted.hex()})
    changes = (await statement(http, "2026-01", since=before["digest"]))["changes"]
    assert [r["requestId"] for r in changes["recorded"]] == [late["requestId"]]
    assert changes["voided"] == [voided]
    assert changes["more"] is False
    page = await fetch(http, "/customers/acme/statement?month=2026-01&format=html")
    assert "Only the last 10,000 are shown." in page.text
    page = await fetch(http, "/customers/acme/statement?month=2026-01&format=csv")
    assert (page.text.count("\nvoided,"), page.text.count("\nvoidedMore,")) == (10_000, 1)


@pytest.mark.skipif(not FOCUS_SAMPLE.exists(), reason="the sample of real cloud bills is not part of the project")
async def test_real_cloud_bills(http: aiohttp.ClientSession) -> None:
    usages = list(focus_usage())
    stored = {r["eventId"]: r for r in await record_all(http, usages)}
    for customer_id in sorted({u["customerId"] for u in usages}):
        own = [u for u in usages if u["customerId"] == customer_id and u["occurredAt"].startswith("2024-09")]
        answer = await statement(http, "2024-09", customer_id)
        found = {
            (li["service"], Decimal(li["pricePerUnit"]), is_credit): (
                *(li["records"], Decimal(li["units"])),
                Decimal(li["amount"]),
            )
            for is_credit, lines in ((False, answer["lines"]), (True, answer.get("credits", [])))
            for li in lines
        }
        expected = sums_by(
            own, lambda u: (u["service"], Decimal(u["pricePerUnit"]), u["unitsConsumed"].startswith("-"))
        )
        assert found == expected
        assert answer["digest"] == digest_of([stored[u["eventId"]] for u in own], answer["from"])


async def test_a_statement_that_an_earlier_version_kept_has_its_digest_and_its_kind(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    first = await record(http, "1", "2026-01-05T00:00:00Z", unitsConsumed="1", pricePerUnit="2")
    digest = sha256(bytes.fromhex(first["requestId"])).digest()
    settled_at = datetime.fromisoformat(first["recordedAt"]) - timedelta(minutes=10)
    lines = json.dumps([line("storage", "2", 1, "1", "2")])
    keep = "INSERT INTO statements VALUES ('acme', '2026-01-01', 'UTC', $1, now(), $2, $3, $4, '{}')"
    await connection.execute(keep, digest, lines, settled_at, [bytes.fromhex(first["requestId"])])
    second = await record(http, "2", "2026-01-06T00:00:00Z")
    voided = await void(http, first)
    changes = (await statement(http, "2026-01", since=digest.hex()))["changes"]
    assert (changes["since"], changes["digestKind"], changes["number"]) == (digest.hex(), "request-ids.v1", None)
    assert (changes["recorded"], changes["voided"]) == ([second], [voided])
    assert changes["total"]["difference"] == {"records": 0, "amount": "-1.97", "rounded": "-1.97"}
