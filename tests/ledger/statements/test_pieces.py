"""Pieces: what is stored of a month and what is read, however it came, are the same as what the records give."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from billing_client.contract.request_parsing import END
from billing_client.contract.statements.digests import PIECE
from billing_service.ledger.statements.pieces import NotPreparedError, read_pieces
from billing_service.ledger.statements.refreshing import refresh_slice, stored_leaves
from tests.calls import get, given_customer, post
from tests.databases import Server
from tests.ledgers import record_all
from tests.statements import content_hash, digest_of, issue, record, statement, void

JANUARY = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
# How release 0.2.0 takes a void out of the sums; here it takes the one record of a customer.
VOID_OF_0_2_0 = """
WITH voided AS (
    INSERT INTO usage_voids (customer_id, request_id, reason, voided_by, voided_at)
    SELECT customer_id, request_id, 'metered twice', 'jo', now() FROM usage_records
    RETURNING customer_id, request_id
)
UPDATE usage_rollups AS rollup
SET records = rollup.records - 1, units = units - units_consumed, amount = amount - units_consumed * price_per_unit
FROM voided JOIN usage_records AS record USING (customer_id, request_id)
WHERE rollup.customer_id = voided.customer_id
"""
NUMBER_OF_RUNS = "SELECT count(*) FROM usage_pieces WHERE customer_id = 'acme'"


def january(count: int, seed: int) -> list[dict[str, Any]]:
    """Usage of some services at some prices, spread over a few days."""
    draw = random.Random(seed)
    return [
        {
            "customerId": "acme",
            "service": draw.choice(("compute", "storage")),
            "unitsConsumed": str(draw.randrange(10**6) / 1000),
            "pricePerUnit": draw.choice(("0.02", "0.5")),
            "eventId": f"{seed}-{number}",
            "occurredAt": (JANUARY[0] + timedelta(seconds=draw.randrange(4 * 86_400))).isoformat(),
        }
        for number in range(count)
    ]


@pytest.fixture
def refresh(connection: "asyncpg.Connection[asyncpg.Record]") -> Any:
    async def refresh_january() -> None:
        while not (progress := await refresh_slice(connection, "acme", *JANUARY, 50)) or not progress.is_done:
            pass

    return refresh_january


async def all_records(http: aiohttp.ClientSession) -> Any:
    return (await get(http, "/customers/acme/usage?limit=1000")).require(200)["data"]


async def test_a_month_is_the_same_whatever_of_it_is_stored(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", refresh: Any
) -> None:
    await record_all(http, january(200, seed=1))
    steps = [refresh, None, refresh, None, refresh]
    for number, step in enumerate(steps):
        for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata"):
            answer = await statement(http, "2026-01", timezone=zone)
            within = [r for r in await all_records(http) if r["occurredAt"] >= answer["from"] and not r["voidedAt"]]
            assert answer["digest"] == digest_of(within, answer["from"])
            assert answer["total"]["records"] == len(within) == sum(line["records"] for line in answer["late"])
            assert answer["lines"] == answer["late"]
        if step is not None:
            await step()
            assert (await statement(http, "2026-01"))["digest"] == digest_of(
                [r for r in await all_records(http) if not r["voidedAt"]], "2026-01-01T00:00:00Z"
            )
        await record_all(http, january(7, seed=10 + number))
        if number % 2:
            await void(http, next(r for r in await all_records(http) if not r["voidedAt"]))


async def test_late_records_are_appended_and_a_void_makes_its_own_piece_anew(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", refresh: Any
) -> None:
    stored = await record_all(http, january(100, seed=2))
    await refresh()
    before = await connection.fetchval(NUMBER_OF_RUNS)
    late = await record(http, "late", stored[7]["occurredAt"])
    await refresh()
    assert await connection.fetchval(NUMBER_OF_RUNS) == before + 1
    newest = "SELECT * FROM usage_pieces ORDER BY made_at DESC, run DESC LIMIT 1"
    run = await connection.fetchrow(newest)
    assert run is not None
    assert (run["is_whole"], run["run"], run["leaves"]) == (False, 1, content_hash(late))
    assert run["added"].hex() == late["requestId"]
    await void(http, late)
    await refresh()
    assert await connection.fetchval(NUMBER_OF_RUNS) == before + 2
    run = await connection.fetchrow(newest)
    assert run is not None
    assert (run["is_whole"], run["run"], run["removed"].hex()) == (True, 2, late["requestId"])
    first = await connection.fetchrow("SELECT * FROM usage_pieces WHERE bucket = $1 AND run = 0", run["bucket"])
    assert first is not None
    assert (run["root"], run["leaves"]) == (first["root"], first["leaves"])
    both = await stored_leaves(connection, "acme", run["bucket"], 1)
    assert b"".join(both) == first["leaves"] + content_hash(late)


async def test_a_void_and_a_late_record_at_once_are_both_noticed(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", refresh: Any
) -> None:
    await given_customer(http)
    wrong = await record(http, "1", "2026-01-02T04:00:00Z")
    await refresh()
    await void(http, wrong)
    right = await record(http, "2", "2026-01-02T04:00:00Z")  # the same numbers under another event id
    assert (await statement(http, "2026-01"))["digest"] == digest_of([right], "2026-01-01T00:00:00Z")


async def test_a_void_of_an_older_program_that_serves_beside_is_noticed_too(
    http: aiohttp.ClientSession,
    connection: "asyncpg.Connection[asyncpg.Record]",
    refresh: Any,
    database_server: Server,
) -> None:
    if database_server.is_cluster:
        pytest.skip("release 0.2.0 does not run on a cluster")
    await given_customer(http)
    await record(http, "1", "2026-01-02T04:00:00Z")
    await refresh()
    await connection.execute(VOID_OF_0_2_0)
    right = await record(http, "2", "2026-01-02T04:00:00Z", unitsConsumed="7")
    found = await statement(http, "2026-01")
    assert found["lines"][0]["units"] == "7"
    assert found["digest"] == digest_of([right], "2026-01-01T00:00:00Z")


async def test_a_record_that_commits_after_later_ones_is_in_its_place(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", refresh: Any
) -> None:
    await given_customer(http)
    stored = await record(http, "1", "2026-01-02T04:00:00Z")
    await refresh()
    insert = (
        "SELECT record_one_usage('acme', $1, 'slow', 'storage', 1, 1, '2026-01-02T05:00:00Z', $2, NULL, NULL, NULL)"
    )
    await connection.execute(insert, bytes(32), datetime.fromisoformat(stored["recordedAt"]) - timedelta(seconds=3))
    both = await all_records(http)
    assert (await statement(http, "2026-01"))["digest"] == digest_of(both, "2026-01-01T00:00:00Z")
    await refresh()
    assert (await statement(http, "2026-01"))["digest"] == digest_of(both, "2026-01-01T00:00:00Z")


async def test_the_database_hashes_as_the_contract_says(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    nasty = 'é世😀/"\\ \u2028'
    usages = january(3, seed=3)
    usages[0] |= {"service": nasty, "eventId": nasty, "dimensions": {nasty[:20]: nasty, "b": "1", "B": "2", "é": "3"}}
    usages[1] |= {"unitsConsumed": "0.000000000000000001", "pricePerUnit": "9" * 38}
    del usages[2]["eventId"]
    usages[2]["occurredAt"] = "0001-01-01T00:00:00.000001Z"
    stored = await record_all(http, usages)
    rows = await connection.fetch(
        """SELECT request_id, record_content_hash(customer_id, request_id, event_id, service, units_consumed,
            price_per_unit, occurred_at, recorded_at, $1, dimensions) AS hash FROM usage_records""",
        bytes.fromhex("0123456789abcdef"),
    )
    hashes = {row["request_id"].hex(): row["hash"] for row in rows}
    for each in stored:
        assert hashes[each["requestId"]] == content_hash(each | {"recordedBy": "bk_0123456789abcdef"})


async def test_too_much_that_is_not_prepared_is_not_read(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", refresh: Any
) -> None:
    await record_all(http, january(100, seed=4))
    with pytest.raises(NotPreparedError) as failed:
        await read_pieces(connection, "acme", *JANUARY, max_records=50)
    assert (failed.value.records, failed.value.prepared) == (100, 0)
    await refresh()
    pieces = await read_pieces(connection, "acme", *JANUARY, max_records=0, late_from=END)
    assert sum(piece.records for piece in pieces) == 100
    assert all(piece.end - piece.start == PIECE and piece.is_stored for piece in pieces)


async def test_a_changed_record_is_not_taken_into_a_new_run(
    http: aiohttp.ClientSession,
    connection: "asyncpg.Connection[asyncpg.Record]",
    refresh: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await given_customer(http)
    kept = [await record(http, str(number), "2026-01-02T04:00:00Z") for number in range(3)]
    issued = await issue(http, "2026-01")
    await connection.execute("UPDATE usage_records SET price_per_unit = 0.03 WHERE event_id = '1'")
    assert (await statement(http, "2026-01")) == issued  # nobody reads the records again
    await void(http, kept[2])
    await record(http, "another piece", "2026-01-03T00:00:00Z")
    await refresh_slice(
        connection, "acme", *JANUARY, 1
    )  # the piece that cannot be renewed comes first, and stops nobody
    assert await connection.fetchval(NUMBER_OF_RUNS) == 2
    await refresh()
    assert "run: billing-service verify" in caplog.text
    assert await connection.fetchval(NUMBER_OF_RUNS) == 2
    answer = await post(http, "/customers/acme/statements", {"month": "2026-01"})
    assert "billing-service verify" in answer.problem("records_changed")["detail"]
