"""Parts of pieces that a month cuts: kept, brought up to date, or read, they give the same statement."""

from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_client.contract.statements.digests import PIECE
from billing_service.ledger.statements.pieces import MIN_PART
from billing_service.ledger.statements.refreshing import refresh_slice
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get
from tests.ledger.statements.test_proofs import prove
from tests.ledger.statements.test_worker import until_value
from tests.ledgers import record_all
from tests.statements import digest_of, issue, record, statement, void

PARTS = "SELECT count(*) FROM usage_piece_parts WHERE run = (SELECT max(run) FROM usage_pieces)"
START, END = datetime(2025, 12, 31, 18, tzinfo=UTC), datetime(2026, 1, 1, 6, tzinfo=UTC)  # where every zone cuts
ZONES = ("Europe/Berlin", "America/St_Johns")


def new_year(count: int) -> list[dict[str, Any]]:
    """Usage of the hours in which years begin."""
    return [
        {
            "customerId": "acme",
            "service": ("compute", "storage")[number % 2],
            "unitsConsumed": str(number / 8 - 3) if number % 3 else "1",
            "pricePerUnit": ("0.02", "0.5")[number % 5 % 2],
            "eventId": str(number),
            "occurredAt": (START + (END - START) * number / count).isoformat(),
        }
        for number in range(count)
    ]


async def all_records(http: aiohttp.ClientSession) -> Any:
    page = (await get(http, "/customers/acme/usage?limit=1000")).require(200)
    data = page["data"]
    while page["nextCursor"] is not None:
        page = (await get(http, f"/customers/acme/usage?limit=1000&cursor={page['nextCursor']}")).require(200)
        data += page["data"]
    return data


async def check(http: aiohttp.ClientSession, zones: tuple[str, ...] = ZONES) -> int:
    """Both months of each zone say what the records say. How many of them have a large part of a piece."""
    stored = [each for each in await all_records(http) if not each["voidedAt"]]
    large = 0
    for zone in zones:
        for month in ("2025-12", "2026-01"):
            answer = await statement(http, month, timezone=zone)
            within = [each for each in stored if answer["from"] <= each["occurredAt"] < answer["to"]]
            assert answer["digest"] == digest_of(within, answer["from"])
            cut = datetime.fromisoformat(answer["to"] if month == "2025-12" else answer["from"])
            bucket = cut.replace(hour=cut.hour // 3 * 3, minute=0)
            first, last = (bucket, cut) if month == "2025-12" else (cut, bucket + PIECE)
            part = [each for each in within if first <= datetime.fromisoformat(each["occurredAt"]) < last]
            large += len(part) >= MIN_PART
            lines = answer["lines"] + answer.get("credits", [])
            assert answer["total"]["records"] == sum(line["records"] for line in lines) == len(within)
            late = [each for each in within if each["recordedAt"] >= answer["to"]]
            assert sum(line["records"] for line in answer.get("late", [])) == len(late)
    return large


async def test_kept_or_read_they_say_the_same(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await record_all(http, new_year(3_000))
    large = await check(http)  # nothing is stored
    assert large > len(ZONES)
    assert (await refresh_slice(connection, "acme", START, END)) is not None
    await check(http)  # the pieces are; reading the parts has the worker keep them
    await until_value(connection, PARTS, lambda count: count == large)
    await check(http)
    for number in range(4):  # one in each part, or beside it
        await record(http, f"late {number}", (START + timedelta(hours=3 * number, minutes=10)).isoformat())
    await check(http)
    assert await connection.fetchval("SELECT max(run) FROM usage_pieces") == 0
    await void(http, (await all_records(http))[-1])
    assert (await refresh_slice(connection, "acme", START, END)) is not None
    await check(http)
    await until_value(connection, PARTS, lambda count: count == large)
    await check(http)


async def test_issuing_keeps_them_and_proofs_differences_and_verify_know_them(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> None:
    await record_all(http, new_year(3_000))
    first = await issue(http, "2026-01", timezone=ZONES[0])
    assert await connection.fetchval("SELECT count(*) FROM usage_piece_parts") == 1
    assert (await statement(http, "2026-01", timezone=ZONES[0])) == first
    inside = await record(http, "inside", "2025-12-31T23:30:00Z")
    await record(http, "before", "2025-12-31T22:30:00Z")
    between = await statement(http, "2026-01", timezone=ZONES[0], since=first["digest"])
    assert [each["requestId"] for each in between["changes"]["recorded"]] == [inside["requestId"]]
    assert (await prove(http, inside, between["digest"], ZONES[0])).require(200)["digest"] == between["digest"]
    second = await issue(http, "2026-01", timezone=ZONES[0])
    assert second["digest"] == between["digest"]
    assert [each["requestId"] for each in second["changes"]["recorded"]] == [inside["requestId"]]
    assert (await verify_ledger(settings)).differences == []
    kept = next(each for each in await all_records(http) if each["occurredAt"] >= "2025-12-31T23:00:00Z")
    for digest in (first["digest"], second["digest"]):
        assert (await prove(http, kept, digest, ZONES[0])).require(200)["digest"] == digest
    for change in ("line_units[1] = 0", "subtrees = sha256('') || substr(subtrees, 33)"):
        await connection.execute(f"UPDATE usage_piece_parts SET {change} WHERE run = 1")
        (found,) = (await verify_ledger(settings)).differences
        assert found.endswith("it is not as its records")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu"])
async def test_what_was_late_is_told_of_the_part_alone(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", zone: str
) -> None:
    await record_all(http, new_year(1))
    end = datetime.fromisoformat((await statement(http, "2025-12", timezone=zone))["to"])
    insert = "SELECT record_one_usage('acme', sha256($1::text::bytea), $1, 'storage', 1, 1, $2, $3, NULL, NULL, NULL)"
    lateness = (timedelta(seconds=5), timedelta(minutes=45), timedelta(hours=5))
    times = [(end + timedelta(seconds=4 * (number - 400)), lateness[number % 3]) for number in range(700)]
    uses = [(f"use {number}", at, at + late) for number, (at, late) in enumerate(times)]
    await connection.executemany(insert, uses)
    assert (await refresh_slice(connection, "acme", end - timedelta(days=1), end)) is not None
    assert await connection.fetchval("SELECT count(*) FROM usage_piece_parts") == 1
    await check(http, (zone,))
