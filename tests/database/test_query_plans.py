"""The plans of the hot queries: what they cost must not grow with what is stored."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from billing_client.contract.periods import PeriodUnit
from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.queries import load_queries
from billing_service.ledger.dimension_groups import Prepared, Records
from billing_service.ledger.export import CURSOR_RECORDS
from billing_service.ledger.rollups import plan
from tests.databases import Server, database

FILL = """
INSERT INTO customers SELECT 'c' || n, 'name', now(), now() FROM generate_series(1, 5000) n;
INSERT INTO usage_records
SELECT 'c' || n % 100, sha256(n::text::bytea), n::text, 'service ' || n % 7, n, 0.01,
    timestamptz '2026-01-01Z' + n * interval '3 minutes', now(), NULL
FROM generate_series(100, 100000) n WHERE n % 100 > 0;
INSERT INTO usage_voids
SELECT customer_id, request_id, 'reason', 'who', now() FROM usage_records WHERE units_consumed::int % 2 = 1;
INSERT INTO usage_rollups
SELECT customer_id, grain, date_bin(grain * interval '1 minute', occurred_at, '2000-01-01Z'), service, count(*),
    sum(units_consumed), sum(units_consumed * price_per_unit)
FROM usage_records, unnest(ARRAY[15, 180]) grain GROUP BY 1, 2, 3, 4;
INSERT INTO credit_rollups
SELECT customer_id, bucket_minutes, bucket, service, records, -units, -amount FROM usage_rollups WHERE records = 1;
INSERT INTO dimension_rollups
SELECT customer_id, 'model', bucket_minutes, bucket, service, 'large', records, units, amount, 0, 0, 0
FROM usage_rollups;
INSERT INTO statements
SELECT customer_id, '2026-01-01', 'UTC', sha256(customer_id::bytea), now(), '[]', now(), '{}', '{}' FROM customers;
INSERT INTO usage_pieces
SELECT customer_id, bucket, 0, now(), sum(records), 0, sha256(''), sha256(''), now(), now(), sha256(''), true,
    '', '', '', '',    array_agg(service), array_agg(0.01), array_agg(records), array_agg(units)
FROM usage_rollups WHERE bucket_minutes = 180 GROUP BY customer_id, bucket;
INSERT INTO usage_piece_parts
SELECT customer_id, bucket, run, bucket, bucket + interval '1 hour', records, subtrees, now(), now(), services, prices,
    line_records, line_units
FROM usage_pieces;
INSERT INTO issued_statements
SELECT customer_id, 1, '2026-01-01', 'UTC', sha256(customer_id::bytea), now(), NULL, 1, 1, 1, '', '{}', '{}'
FROM customers;
ANALYZE;
"""
IDS = [bytes(32)] * 3
MARCH = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
CUT = (datetime(2026, 3, 1, 0, 7, tzinfo=UTC), datetime(2026, 4, 1, 12, 1, tzinfo=UTC))


def columns(start: datetime, end: datetime, unit: PeriodUnit | None, zone: str) -> list[Sequence[object]]:
    """The pieces of the periods of a summary, as its query takes them."""
    return [*plan(start, end, unit, zone).rollups, *plan(start, end, unit, zone).records]


SEEN = (BEGINNING, "", "", "")
PLAN_OF = partial(plan, *CUT, "day", "Asia/Kathmandu")
HOT: list[tuple[str, str, tuple[Any, ...]]] = [
    ("usage", "find_usage", (["c1", "c2", "c3"], IDS)),
    ("usage", "find_many_usage", (["c1", "c2", "c3"], IDS)),
    ("usage", "list_usage", ("c1", BEGINNING, b"", END, None, None, 101)),
    ("usage", "list_usage", ("c1", MARCH[0], bytes(32), MARCH[1], "service 3", '{"model": "large"}', 101)),
    ("usage", "list_usage", ("c1", BEGINNING, b"", END, None, None, CURSOR_RECORDS)),
    ("customers", "get_customer", ("c1",)),
    ("customers", "known_customers", (["c1", "c2"],)),
    ("customers", "list_customers", ("c2", 100)),
    ("rollups", "read_groups", ("c1", True, 100, BEGINNING, "", *columns(*MARCH, None, "UTC"))),
    ("rollups", "read_groups", ("c1", True, 100, BEGINNING, "", *columns(*CUT, "day", "Asia/Kathmandu"))),
    ("rollups", "read_groups", ("c1", False, 100, BEGINNING, "", *columns(*CUT, "hour", "Asia/Kolkata"))),
    ("rollups", "read_groups", ("c1", False, 100, BEGINNING, "", *columns(*CUT, "month", "Europe/Berlin"))),
    ("dimensions", "read_prepared", Prepared("model", None, True).arguments("c1", True, 100, SEEN, PLAN_OF)),
    ("dimensions", "read_prepared", Prepared("model", "large", False).arguments("c1", True, 100, SEEN, PLAN_OF)),
    ("dimensions", "read_records", Records(("model",), ()).arguments("c1", True, 100, SEEN, PLAN_OF)),
    ("statements", "totals_of_month", (["c1", "c2"], *MARCH, *MARCH)),
    ("issued_statements", "latest_of_customers", (["c1", "c2"], MARCH[0].date(), "UTC")),
    ("rollups", "used_buckets", ("c1", 180, timedelta(days=1), *MARCH, 100)),
    ("pieces", "read_pieces", ("c1", *MARCH)),
    ("pieces", "hash_spans", ("c1", [MARCH[0]], [MARCH[1]], END)),
    ("pieces", "late_arrivals", ("c1", [MARCH[0]] * 9, [MARCH[0]] * 9, IDS * 3, 1_000)),
    ("pieces", "sum_lines", ("c1", [MARCH[0]] * 9, [0] * 9)),
    ("pieces", "late_lines", ("c1", [MARCH[0]] * 9, MARCH[1], *MARCH)),
    ("pieces", "read_parts", ("c1", [MARCH[0]] * 2, [0, 0], [MARCH[0]] * 2, [MARCH[1]] * 2)),
    ("pieces", "just_late_lines", ("c1", MARCH[0], MARCH[0] + timedelta(hours=1), MARCH[1])),
    ("pieces", "stored_leaves", ("c1", MARCH[0], 0)),
    ("pieces", "run_changes", ("c1", [MARCH[0]] * 9, [0] * 9, [1] * 9)),
    ("pieces", "piece_roots", ("c1", [MARCH[0]] * 9, [0] * 9)),
    ("pieces", "piece_lines", ("c1", MARCH[0], 0)),
    ("pieces", "stale_customers", (["c1", "c2"], *MARCH, MARCH[1])),
    ("issued_statements", "latest_issued", ("c1", MARCH[0].date(), "UTC")),
    ("issued_statements", "latest_listed", ("c1", MARCH[0].date(), "UTC")),
    ("issued_statements", "find_issued", ("c1", 1, bytes(32))),
    ("issued_statements", "list_issued", ("c1", 1, 101)),
    ("issued_statements", "last_number", ("c1",)),
    ("statements", "recorded_among", ("c1", IDS, 101)),
    ("statements", "voided_among", ("c1", IDS, 101)),
    ("statements", "recorded_after", ("c1", *MARCH, MARCH[1], IDS, 101)),
    ("statements", "voided_after", ("c1", *MARCH, BEGINNING, [], 101)),
    ("statements", "find_statement", ("c1", MARCH[0].date(), "UTC", bytes(32))),
    ("rollups", "take_from_rollups", ("c1", 15, MARCH[0], "service 3", "1", "1")),
    ("rollups", "take_from_credits", ("c1", 15, MARCH[0], "service 3", "-1", "-1")),
    ("rollups", "take_from_dimensions", ("c1", "model", 15, MARCH[0], "service 3", "large", "1", "1")),
]


@pytest.fixture(scope="module")
def large_database(database_server: Server, template_database: str) -> Iterator[str]:
    if database_server.is_cluster:
        pytest.skip("a cluster plans each query in parts, on its nodes")
    with database(database_server, template_database) as name:
        yield database_server.url_of(name)


@pytest.fixture
async def large(large_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(large_database)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM customers)"):
        await connection.execute(FILL)
    yield connection
    await connection.close()


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from nodes(child)


async def planned(
    connection: "asyncpg.Connection[asyncpg.Record]", mode: str, sql: str, arguments: Sequence[Any]
) -> dict[str, Any]:
    """The plan of a query. The generic one is made without a look at the arguments, so any will do to ask for it."""
    await connection.execute(f"SET plan_cache_mode = {mode}")
    if mode == "force_custom_plan":
        statement = await connection.prepare(sql)
        async with connection.transaction():
            explained = await statement.explain(*arguments)
    else:
        await connection.execute(f"PREPARE generic AS {sql}")
        nulls = ", ".join(["NULL"] * len(arguments))
        explained = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE generic({nulls})"))
    plan: dict[str, Any] = explained[0]["Plan"]
    return plan


def scans(plan: dict[str, Any]) -> Iterator[str]:
    names = (node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan")
    return (name for name in names if name != "prepared_dimensions")  # a row for each, of which there are a few


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(("noun", "name", "arguments"), HOT, ids=lambda value: value if isinstance(value, str) else "")
async def test_no_hot_query_reads_a_whole_table(
    large: "asyncpg.Connection[asyncpg.Record]", noun: str, name: str, arguments: tuple[Any, ...], mode: str
) -> None:
    plan = await planned(large, mode, load_queries(noun)[name], arguments)
    assert list(scans(plan)) == [], "reads the whole of what the list names"


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
async def test_a_summary_reads_each_span_by_key(
    large: "asyncpg.Connection[asyncpg.Record]", mode: str, zone: str
) -> None:
    arguments = ("c1", False, 100, BEGINNING, "", *columns(*MARCH, "day", zone))
    plan = await planned(large, mode, load_queries("rollups")["read_groups"], arguments)
    conditions = {
        node["Index Name"]: condition.count("bucket ") + condition.count("occurred_at ")
        for node in nodes(plan)
        if (condition := node.get("Index Cond"))
    }
    spans = {"usage_rollups_pkey": 2, "usage_records_occurred_at_idx": 2}  # from and to
    assert conditions.items() >= spans.items(), conditions


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_record_of_whichever_customer_is_looked_up_in_the_index_of_each(
    large: "asyncpg.Connection[asyncpg.Record]", mode: str
) -> None:
    plan = await planned(large, mode, load_queries("finds")["records_anywhere"], (IDS[0], "event-1", 20))
    assert "usage_records" not in scans(plan)
    conditions = [node["Index Cond"] for node in nodes(plan) if node.get("Index Name") == "usage_records_pkey"]
    assert ["request_id = ANY" in condition for condition in conditions] == [True]


SAME_TIME = """INSERT INTO usage_records
SELECT 'c4999', sha256(n::text::bytea), n::text, 'service', n, 0.01, timestamptz '2026-03-01Z', now(), NULL
FROM generate_series(1, 3000) n"""
AMID = f"""EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page(
    'c4999', '2026-03-01Z', '\\x80{"00" * 31}', 'infinity', NULL, NULL, 101
)"""


@pytest.mark.parametrize("customers", [100, 2000, 6000])  # so that the planner expects 1,000, 50 or 17 records of each
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_page_amid_many_records_of_one_time_reads_no_more_than_a_page(
    large: "asyncpg.Connection[asyncpg.Record]", mode: str, customers: int
) -> None:
    await large.execute(f"SET plan_cache_mode = {mode}")
    await large.execute(f"PREPARE page AS {load_queries('usage')['list_usage']}")
    transaction = large.transaction()
    await transaction.start()
    await large.execute(SAME_TIME)
    await large.execute(f"ALTER TABLE usage_records ALTER customer_id SET (n_distinct = {customers})")
    await large.execute("ANALYZE usage_records (customer_id)")
    plan = json.loads(await large.fetchval(AMID))[0]["Plan"]
    await transaction.rollback()
    (scan,) = (node for node in nodes(plan) if node.get("Relation Name") == "usage_records")
    assert scan["Actual Rows"] < 200
    assert scan.get("Rows Removed by Filter", 0) < 2


async def test_a_scan_would_be_seen(large: "asyncpg.Connection[asyncpg.Record]") -> None:
    statement = await large.prepare("SELECT count(*) FROM usage_records WHERE service = $1")
    plan = await statement.explain("service 3")
    assert list(scans(plan[0]["Plan"])) == ["usage_records"]
