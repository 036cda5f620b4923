"""`python -m benchmarks.layout`: what a record costs in the present layout of usage_records, and in others.

Bytes of the log are counted without the pages that are written in full after a checkpoint (off), and with them (on).
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

import asyncpg
from msgspec import Struct

from benchmarks.layouts import COLUMNS, LAYOUTS, Layout
from benchmarks.report import circumstances
from benchmarks.servers import create_customers, create_database, postgresql, query, temporary_folder
from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.queries import load_queries
from billing_service.ledger.rollups import plan

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
CUSTOMER, TIED = "7", 20_000  # this customer has so many records of the same time, as a daily bill has
CHUNK, GROUP, BATCH = 20_000, 32, 1_000
START, STEP = datetime(2026, 1, 1, tzinfo=UTC), timedelta(milliseconds=10)
# Like FOCUS; a quarter has no event id, and all have an Idempotency-Key and an API key if $6
SOURCE = """
SELECT customer_id,
    sha256(convert_to(CASE
        WHEN event_id IS NULL THEN '["usage.v1",' || to_json(customer_id)::text || ',' || to_json(service)::text || ',"'
            || trim_scale(units)::text || '","' || trim_scale(price)::text || '"]'
        ELSE '["event.v1",' || to_json(customer_id)::text || ',"' || event_id || '"]'
    END, 'UTF8')) AS request_id,
    event_id, service, units AS units_consumed, price AS price_per_unit, occurred_at,
    occurred_at + interval '40 milliseconds' AS recorded_at, CASE WHEN $6 THEN md5('key' || n)::uuid::text END
        AS idempotency_key, CASE WHEN $6 THEN '\\x0123456789abcdef'::bytea END AS recorded_by, NULL::jsonb AS dimensions
FROM (
    SELECT n,
        ($3::text[])[CASE WHEN n < $4 THEN 8 ELSE (hashint8(n) & 2147483647) % cardinality($3) + 1 END]
            AS customer_id,
        CASE WHEN n % 4 > 0 THEN md5(n::text)::uuid::text END AS event_id,
        (ARRAY['AWS Lambda', 'Amazon Elastic Compute Cloud', 'Amazon Relational Database Service', 'AmazonCloudWatch',
            'Amazon Simple Storage Service'])[n % 5 + 1] AS service,
        CASE WHEN n % 4 > 0 THEN n % 997 + 1.25 ELSE n * 0.001 END AS units,
        (ARRAY[0.0235, 0.0000166667, 0.096, 0.00001, 1.5])[n % 5 + 1] AS price,
        $5::timestamptz + greatest(n - $4, 0) * interval '10 milliseconds' AS occurred_at
    FROM generate_series($1::bigint, $2::bigint) AS n
) AS made"""
STATE = """SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes, wal_fpi AS pages FROM pg_stat_wal"""
SIZES = """SELECT relname, pg_table_size(pg_class.oid) AS bytes FROM pg_class
    WHERE oid IN (
        SELECT unnest(ARRAY[indrelid, indexrelid]) FROM pg_index
        WHERE indrelid IN ('usage_records'::regclass, to_regclass('usage_ids'))
    )
    ORDER BY relkind = 'i', relname"""


class Cost(NamedTuple):
    """What a record costs: bytes of the log, pages written in full, CPU µs of PostgreSQL's process."""

    log: float
    pages: float
    cpu: float


class Bench(Struct, frozen=True):
    """A layout under test, in a database of its own."""

    connection: Connection
    layout: Layout
    customers: Sequence[str]
    keys: bool

    async def change(self) -> None:
        """Change the schema and what the record functions insert."""
        await self.connection.execute(self.layout.change or "SELECT 1")
        if self.layout.values or self.layout.unique != Layout("").unique:
            for name, arguments in (("record_usage", 13), ("record_one_usage", 11)):
                found = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronargs = $2"
                text = await self.connection.fetchval(found, name, arguments)
                await self.connection.execute(self._with_other_insert(text, name))

    def _with_other_insert(self, text: str, name: str) -> str:
        given = "record_one_usage" if name == "record_one_usage" else "given"
        names = {column: f"{given}.{column}" for column in COLUMNS} | {"recorded_by": f"{given}.key_id"}
        if given == "given":
            start, end = text.index("SELECT unnest(customer_ids), unnest"), text.index(";\n        EXCEPTION")
            arrays = text[start:end].removeprefix("SELECT ").split(",")
            named = ", ".join(f"{array} AS {name}" for array, name in zip(arrays, COLUMNS, strict=True))
            names = {column: f"given.{column}" for column in COLUMNS}
            inserted = f"SELECT {self._values(names)} FROM (SELECT {named}) AS given"
            text = text.replace(text[start:end], inserted)
        else:
            start = text.index("VALUES (") + len("VALUES (")
            text = text[:start] + self._values(names) + text[text.index(")\n    ON CONFLICT", start) :]
        return text.replace("ON CONFLICT (customer_id, request_id)", self.layout.unique)

    def _values(self, names: dict[str, str]) -> str:
        return ", ".join(self.layout.values.get(column, f"{{{column}}}").format(**names) for column in COLUMNS)

    async def store(self, first: int, last: int) -> None:
        """Store records n from first to before last in order of time, as insert by insert would."""
        named = {column: f"made.{column}" for column in COLUMNS}
        sql = f"INSERT INTO usage_records ({', '.join(COLUMNS)}) SELECT {self._values(named)} FROM ({SOURCE}) AS made"
        for start in range(first, last, CHUNK):
            await self.connection.execute(sql, *self.source(start, min(start + CHUNK, last)))

    def source(self, first: int, last: int) -> tuple[object, ...]:
        return first, last - 1, self.customers, TIED, START, self.keys

    async def record(self, first: int, last: int, size: int) -> Cost:
        """Record usage n from first to before last by the service's functions, in calls of this size."""
        rows = await self.connection.fetch(f"SELECT * FROM ({SOURCE}) AS made", *self.source(first, last))
        calls = [
            sorted(rows[n : n + size], key=itemgetter("customer_id", "request_id")) for n in range(0, len(rows), size)
        ]
        log, pages = await self._log()
        pid = self.connection.get_server_pid()
        cpu = _cpu_us(pid)
        for rows in calls:
            await self._call(rows)
        spent, number = _cpu_us(pid) - cpu, last - first
        log_after, pages_after = await self._log()
        return Cost((log_after - log) / number, (pages_after - pages) / number, spent / number)

    async def _log(self) -> tuple[float, int]:
        """Bytes of the log so far, and pages written in full."""
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        (state,) = await self.connection.fetch(STATE)
        return float(state["bytes"]), state["pages"]

    async def _call(self, rows: list[asyncpg.Record]) -> None:
        columns = {column: [row[column] for row in rows] for column in COLUMNS}
        if len(rows) == 1:
            one = "SELECT record_one_usage($1, $2, $3, $4, $5::numeric, $6::numeric, $7, $8, $9, $10, $11)"
            assert await self.connection.fetchval(one, *rows[0])
            return
        repeated = await self.connection.fetchval(
            "SELECT record_usage_of($1, true, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL)",
            columns["customer_id"][0],
            _joined(columns["customer_id"]),
            columns["request_id"],
            _joined(columns["event_id"]),
            _joined(columns["service"]),
            _joined(columns["units_consumed"]),
            _joined(columns["price_per_unit"]),
            columns["occurred_at"],
            columns["recorded_at"],
            _joined(columns["idempotency_key"]),
            columns["recorded_by"],
        )
        if repeated is not None:
            raise RuntimeError(f"{self.layout.name}: {len(repeated)} of {len(rows)} were taken for new")

    async def read(self, sql: str, arguments: Sequence[object], times: int) -> tuple[float, int]:
        """CPU µs of PostgreSQL for one read, and the pages that it looks at."""
        statement = await self.connection.prepare(self.layout.changed(sql))
        await statement.fetch(*arguments)
        explained = await statement.explain(*arguments, analyze=True)
        pid, spent = self.connection.get_server_pid(), []
        for _ in range(3):
            before = _cpu_us(pid)
            for _ in range(times):
                await statement.fetch(*arguments)
            spent.append((_cpu_us(pid) - before) / times)
        top = explained[0]["Plan"]
        return statistics.median(spent), top["Shared Hit Blocks"] + top["Shared Read Blocks"]


def _joined(values: Sequence[object]) -> str:
    return "\n".join("" if value is None else str(value) for value in values)


def _cpu_us(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e3


def _reads(bench: Bench, ids: list[bytes], records: int) -> dict[str, tuple[str, tuple[object, ...], int]]:
    """The reads that are measured: query, arguments, how often."""
    usage, customer = load_queries("usage"), bench.customers[int(CUSTOMER)]
    tied, half = (START, bytes([128]) + bytes(31)), START + STEP * (records // 2)
    pieces = plan(START + timedelta(minutes=7), half + timedelta(minutes=1), None, "UTC")
    summary = (customer, True, 100, BEGINNING, "", *pieces.rollups, *pieces.records)
    other = bench.customers[9]
    return {
        "page of 100": (usage["list_usage"], (bench.customers[8], BEGINNING, b"", END, None, None, 101), 100),
        "page of 100 amid a customer's 20,000 of one time": (
            usage["list_usage"],
            (customer, *tied, END, None, None, 101),
            5,
        ),
        "export of 20,000": (usage["list_usage"], (customer, BEGINNING, b"", END, None, None, 20_000), 1),
        "one by its id": (usage["find_usage"], ([other], ids[:1]), 200),
        "32 calls again": (usage["find_usage"], ([other] * len(ids), ids), 50),
        "summary cut within quarters of an hour": (load_queries("rollups")["read_groups"], summary, 50),
    }


class Result(Struct, frozen=True):
    """What was measured of a layout: bytes a record by table and index, costs of writing, CPU µs and pages of reads."""

    layout: str
    sizes: dict[str, float]
    costs: dict[str, Cost]
    reads: dict[str, tuple[float, int]]


async def _measured(bench: Bench, options: argparse.Namespace) -> Result:
    await bench.change()
    stored = options.records
    await bench.store(0, stored)
    await bench.connection.execute(bench.layout.afterwards)
    await bench.connection.execute("VACUUM (ANALYZE, FREEZE) usage_records")
    sizes = {row["relname"]: row["bytes"] / stored for row in await bench.connection.fetch(SIZES)}
    next_, costs = stored, {}
    for full_pages in ("off", "on"):
        for name, size, number in (("singles", GROUP, options.singles), ("batches", BATCH, options.batches)):
            await bench.connection.execute(f"ALTER SYSTEM SET full_page_writes = {full_pages}")
            await bench.connection.execute("SELECT pg_reload_conf()")
            await bench.connection.execute("CHECKPOINT")
            costs[f"{name}, {full_pages}"] = await bench.record(next_, next_ + number, size)
            next_ += number
    costs["alone"] = await bench.record(next_, next_ + options.singles // 10, 1)
    ids = await bench.connection.fetchval(
        f"SELECT (array_agg(request_id))[:32] FROM ({SOURCE}) AS made WHERE customer_id = $7",
        *bench.source(max(TIED, stored - 200_000), stored),
        bench.customers[9],
    )
    reads = {name: await bench.read(*read) for name, read in _reads(bench, ids, stored).items()}
    return Result(bench.layout.name, sizes, costs, reads)


async def _run(server_url: str, layout: Layout, options: argparse.Namespace) -> Result:
    names = [f"cus_{n:08x}-0000-7000-8000-000000000000" if options.long_ids else f"customer-{n}" for n in range(1000)]
    url = await asyncio.to_thread(create_database, server_url, "layout", 0)
    await asyncio.to_thread(create_customers, url, names)
    connection = await asyncpg.connect(url, server_settings=dict(layout.settings) | {"jit": "off"})
    try:
        return await _measured(Bench(connection, layout, names, not options.no_keys), options)
    finally:
        await connection.close()
        await asyncio.to_thread(query, server_url, "DROP DATABASE layout")


def _tables(results: Sequence[Result]) -> str:
    """The results in Markdown: what writing costs, and what reading does."""
    costs, reads = list(results[0].costs), list(results[0].reads)
    log = [name for name in costs if name != "alone"]
    lines = [
        (
            f"| layout | table | indexes | bytes | {' | '.join(f'log, {name}' for name in log)} |"
            f" {' | '.join(f'CPU, {name}' for name in costs)} |"
        ),
        f"| --- |{' ---: |' * (3 + len(log) + len(costs))}",
    ]
    for result in results:
        table, all_ = result.sizes["usage_records"], sum(result.sizes.values())
        bytes_ = [table, all_ - table, all_, *(result.costs[name].log for name in log)]
        cells = [*(f"{value:,.0f}" for value in bytes_), *(f"{result.costs[name].cpu:.1f}" for name in costs)]
        lines.append(f"| {result.layout} | {' | '.join(cells)} |")
    lines += ["", f"| layout | {' | '.join(reads)} |", f"| --- |{' ---: |' * len(reads)}"]
    for result in results:
        lines.append(
            f"| {result.layout} | {' | '.join(f'{cpu:,.0f} ({pages})' for cpu, pages in result.reads.values())} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = _options()
    layouts = [each for each in LAYOUTS if options.only is None or any(part in each.name for part in options.only)]
    results = []
    with temporary_folder() as folder, postgresql(folder, {"max_wal_size": "16GB", "checkpoint_timeout": "1h"}) as url:
        for layout in layouts:
            print(layout.name, file=sys.stderr, flush=True)
            results.append(asyncio.run(_run(url, layout, options)))
            print(_tables(results[-1:]), file=sys.stderr, flush=True)
        facts = {
            "database": f"embedded PostgreSQL {query(url, 'SHOW server_version')}",
            "stored": f"{options.records:,}",
        }
    print(circumstances(facts), _tables(results), "", sep="\n\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layout", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="that are stored; default 1,000,000")
    parser.add_argument("--singles", type=int, default=20_000, help="then recorded in groups of 32")
    parser.add_argument("--batches", type=int, default=50_000, help="and in batches of 1,000")
    parser.add_argument("--only", nargs="+", help="layouts whose names hold one of these")
    parser.add_argument("--no-keys", action="store_true", help="records have neither an Idempotency-Key nor an API key")
    parser.add_argument(
        "--long-ids", action="store_true", help="customers have ids of 40 characters, as the service makes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
