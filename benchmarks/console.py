"""`python -m benchmarks.console`: how long the console's pages take with many records and customers."""

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple
from urllib.parse import quote, urlencode

import uvloop
from msgspec import Struct

from benchmarks.fill import settle
from benchmarks.load import Caller, get
from benchmarks.report import circumstances
from benchmarks.servers import (
    DatabaseServer,
    Process,
    create_database,
    database_server,
    postgresql,
    query,
    service,
    temporary_folder,
)
from benchmarks.usages import SERVICES

_QUICKLY = {"session_replication_role": "replica"}  # no foreign key is looked up
_NAMES = "('{Acme,Zenith,Orion,Apollo,Nimbus,Vega,Lyra,Atlas}'::text[])"
_CUSTOMERS = f"""
INSERT INTO customers (customer_id, name, created_at, updated_at)
SELECT 'customer-' || lpad(n::text, 6, '0'),
    {_NAMES}[n % 8 + 1] || ' ' || {_NAMES}[n / 8 % 8 + 1] || ' ' || n, now(), now()
FROM generate_series(0, $1::integer - 1) AS n
"""
# in the order of time, as live usage comes in
_RECORDS = f"""
INSERT INTO usage_records
    (customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at)
SELECT customer_id, sha256(convert_to('["event.v1","' || customer_id || '","stored-' || n || '"]', 'UTF8')),
    'stored-' || n, ('{{{",".join(SERVICES)}}}'::text[])[n % {len(SERVICES)} + 1], n % 997 + 1.25, 0.0235, at, at
FROM generate_series($1::bigint, $2::bigint) AS n
CROSS JOIN LATERAL (
    SELECT 'customer-' || lpad((n * 7919 % $3::integer)::text, 6, '0') AS customer_id,
        $4::timestamptz + n * $5::interval AS at
) AS record
"""
_ROLLUPS = """
INSERT INTO usage_rollups (customer_id, bucket_minutes, bucket, service, records, units, amount)
SELECT customer_id, grain,
    date_bin(grain * interval '1 minute', occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket,
    service, count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
FROM usage_records CROSS JOIN unnest(ARRAY[15, 180]::smallint[]) AS grain
GROUP BY 1, 2, 3, 4
ORDER BY bucket
"""
_CHUNK = 1_000_000
WARM_UP = 3  # calls of each page that do not count
IDLE_SECONDS = 10.0


class Page(Struct, frozen=True):
    """A page to be measured; `headers` are sent with the request."""

    name: str
    path: str
    headers: bytes = b""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument(
        "--days", type=int, default=365, help="that the records are spread over, until now; default 365"
    )
    parser.add_argument("--calls", type=int, default=30, help="of each page; default 30")
    options = parser.parse_args()
    with temporary_folder() as folder, postgresql(folder) as server_url:
        url = create_database(server_url, "benchmark_console", 0)
        fill(url, options.records, options.customers, timedelta(days=options.days))
        with service(url, folder) as process:
            print(_report(process, database_server(folder), url, options))


def fill(url: str, records: int, customers: int, span: timedelta) -> None:
    """Store customers and their records, spread evenly over a span of time that ends now, and what they add up to."""
    print(f"storing {records:,} records of {customers:,} customers", file=sys.stderr, flush=True)
    query(url, _CUSTOMERS, customers)
    start = datetime.now(UTC) - span
    for first in range(0, records, _CHUNK):
        last = min(first + _CHUNK, records) - 1
        query(url, _RECORDS, first, last, customers, start, span / records, settings=_QUICKLY)
    query(url, _ROLLUPS)
    settle(url)


class _Cpu(NamedTuple):
    """CPU seconds of the service and of the database, and when they were read."""

    service: float
    database: float
    at: float

    @classmethod
    def now(cls, process: Process, database: DatabaseServer) -> "_Cpu":
        return cls(process.cpu_seconds(), database.cpu_seconds(), time.perf_counter())

    def since(self, before: "_Cpu") -> "_Cpu":
        return _Cpu(self.service - before.service, self.database - before.database, self.at - before.at)

    def of_call(self, calls: int, idle: "_Cpu") -> list[float]:
        """Milliseconds a call of each, without what they take while nothing is asked."""
        pairs = ((self.service, idle.service), (self.database, idle.database))
        return [max(0.0, used - rest / idle.at * self.at) / calls * 1e3 for used, rest in pairs]


def _report(process: Process, database: DatabaseServer, url: str, options: argparse.Namespace) -> str:
    record = query(
        url,
        "SELECT concat_ws(' ', customer_id, event_id, encode(request_id, 'hex')) "
        "FROM usage_records OFFSET 5000 LIMIT 1",
    )
    lines = [
        "| page | median ms | worst ms | CPU ms, service | CPU ms, database |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    before = _Cpu.now(process, database)
    time.sleep(IDLE_SECONDS)
    idle = _Cpu.now(process, database).since(before)
    for page in _pages(*record.split()):
        before = _Cpu.now(process, database)
        taken = uvloop.run(_read(process.port, page, options.calls))
        used = _Cpu.now(process, database).since(before)
        cpu = used.of_call(options.calls + WARM_UP, idle)
        lines.append(
            f"| {page.name} | {median(taken) * 1e3:.1f} | {max(taken) * 1e3:.1f} | {cpu[0]:.1f} | {cpu[1]:.1f} |"
        )
    facts = {
        "stored": f"{options.records:,} records of {options.customers:,} customers in {options.days} days",
        "idle": f"{(idle.service + idle.database) / idle.at * 1e3:.0f} ms of CPU a second, for statements; not counted",
        "calls": f"{options.calls} of each page, one after the other, after {WARM_UP} that do not count",
    }
    return "\n\n".join([circumstances(facts), "\n".join(lines)])


def _pages(customer: str, event: str, request_id: str) -> list[Page]:
    here = f"/console/customers/{quote(customer, safe='')}"
    today = datetime.now(UTC).date()
    year = urlencode({"from": (today - timedelta(days=364)).isoformat(), "to": today.isoformat()})
    return [
        Page("overview", "/console"),
        Page("overview, read anew", "/console", b"Cache-Control: no-cache\r\n"),
        Page("overview in Kathmandu, read anew", "/console?timezone=Asia/Kathmandu", b"Cache-Control: no-cache\r\n"),
        Page("customers", "/console/customers"),
        Page("customers, searched for one in the midst", f"/console/customers?q={customer[:-1]}"),
        Page("customers, searched for what is not there", "/console/customers?q=nowhere"),
        Page("a customer this month", here),
        Page("a customer in a year, in Kathmandu", f"{here}?{year}&timezone=Asia/Kathmandu"),
        Page("a record", f"{here}/records/{request_id}"),
        Page("statements of the month before", "/console/statements"),
        Page("find a customer", f"/console/find?q={customer}"),
        Page("find an event id", f"/console/find?q={event}"),
        Page("find a request id that is not there", f"/console/find?q={'0' * 64}"),
        Page("refusals", "/console/refusals"),
        Page("keys", "/console/keys"),
    ]


async def _read(port: int, page: Page, calls: int) -> list[float]:
    taken = []
    request = get(page.path)
    request = request[: -len(b"\r\n")] + page.headers + b"\r\n"
    async with Caller(port) as call:
        for number in range(calls + WARM_UP):
            sent = time.perf_counter()
            status, body = await call(request)
            if number >= WARM_UP:
                taken.append(time.perf_counter() - sent)
            if status not in (200, 303):
                raise RuntimeError(f"{page.path} was answered with {status}: {body[:500]!r}")
    return taken


if __name__ == "__main__":
    main()
