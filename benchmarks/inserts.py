"""`python -m benchmarks.inserts`: ways to insert a batch into the service's table, straight on asyncpg.

All but COPY and the plain insert leave out what is there already and answer what is new, which the service cannot do
without. The CPU time is that of PostgreSQL's process and of the caller together.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import asyncpg
import msgspec
import psutil

from benchmarks.batches import COLUMNS, rows
from benchmarks.load import choose_generator
from benchmarks.report import Sample, Samples, circumstances, table
from benchmarks.servers import postgresql, query, temporary_folder
from benchmarks.stage import Stage, Way, measure
from benchmarks.usages import Workload, records
from billing_client.contract.outcomes import Submission
from billing_service.database.pool import Database
from billing_service.ledger.group_commit import GroupCommit
from billing_service.settings import Settings

SIZES = (64, 1_000, 10_000)
RECORDS_PER_SECOND = 30_000
_NAMES = ", ".join(COLUMNS)
_TYPES = ("text", "bytea", "text", "text", "numeric", "numeric", "timestamptz", "timestamptz")
_NEW = "ON CONFLICT (customer_id, request_id) DO NOTHING RETURNING request_id"
_TYPED = ", ".join(f"{name} {type_}" for name, type_ in zip(COLUMNS, _TYPES, strict=True))
_encode = msgspec.json.Encoder(decimal_format="number").encode


class Cost(NamedTuple):
    """What some work took: seconds of time, and of the caller's CPU time."""

    seconds: float
    cpu: float


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Insert = Callable[[Connection, Sequence[bytes]], Awaitable[Cost]]


def _unnest(types: Sequence[str]) -> str:
    arrays = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(types, 1))
    cast = ", ".join(f"{name}::{type_}" for name, type_ in zip(COLUMNS, _TYPES, strict=True))
    return f"INSERT INTO usage_records ({_NAMES}) SELECT {cast} FROM unnest({arrays}) AS new ({_NAMES}) {_NEW}"


_WITH_TEXT = ["text" if type_ == "numeric" else type_ for type_ in _TYPES]
_BINARY, _TEXT = _unnest(_TYPES), _unnest(_WITH_TEXT)
_COLUMNS_OF_ARRAYS = ", ".join(
    f"unnest(${n}::{given}[]::{type_}[])" for n, (given, type_) in enumerate(zip(_WITH_TEXT, _TYPES, strict=True), 1)
)
_SELECTED = f"INSERT INTO usage_records ({_NAMES}) SELECT {_COLUMNS_OF_ARRAYS} {_NEW}"
_PLAIN = f"INSERT INTO usage_records ({_NAMES}) SELECT {_COLUMNS_OF_ARRAYS}"
_JSON = f"""INSERT INTO usage_records ({_NAMES})
SELECT customer_id, decode(request_id, 'hex'), {", ".join(COLUMNS[2:])}
FROM jsonb_to_recordset($1) AS new ({_TYPED.replace("request_id bytea", "request_id text")}) {_NEW}"""
_STAGED = f"INSERT INTO usage_records ({_NAMES}) SELECT {_NAMES} FROM staged ORDER BY customer_id, request_id {_NEW}"
_VALUES = f"INSERT INTO usage_records ({_NAMES}) VALUES ({', '.join(f'${n}' for n in range(1, 9))}) {_NEW}"


async def _timed(work: Awaitable[object]) -> Cost:
    started, cpu = time.perf_counter(), time.process_time()
    await work
    return Cost(time.perf_counter() - started, time.process_time() - cpu)


async def _by_copy(connection: Connection, bodies: Sequence[bytes]) -> Cost:
    given = rows(bodies)
    return await _timed(connection.copy_records_to_table("usage_records", records=given, columns=COLUMNS))


async def _by_unnest(sql: str, as_text: bool, connection: Connection, bodies: Sequence[bytes]) -> Cost:
    given = sorted(rows(bodies))

    async def insert() -> None:
        columns: list[Sequence[object]] = list(zip(*given, strict=True))
        if as_text:
            columns[4:6] = [[str(value) for value in column] for column in columns[4:6]]
        await connection.fetch(sql, *columns)

    return await _timed(insert())


async def _by_staging(connection: Connection, bodies: Sequence[bytes]) -> Cost:
    given = rows(bodies)

    async def insert() -> None:
        async with connection.transaction():
            await connection.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS staged ({_TYPED}) ON COMMIT DELETE ROWS")
            await connection.copy_records_to_table("staged", records=given, columns=COLUMNS)
            await connection.fetch(_STAGED)

    return await _timed(insert())


async def _by_json(connection: Connection, bodies: Sequence[bytes]) -> Cost:
    given = sorted(rows(bodies))

    async def insert() -> None:
        document = [dict(zip(COLUMNS, (row[0], row[1].hex(), *row[2:]), strict=True)) for row in given]
        await connection.fetch(_JSON, _encode(document).decode())

    return await _timed(insert())


async def _by_many(connection: Connection, bodies: Sequence[bytes]) -> Cost:
    """One statement a row, all sent at once (executemany)."""
    given = sorted(rows(bodies))
    return await _timed(connection.executemany(_VALUES.removesuffix(" RETURNING request_id"), given))


INSERTS: dict[str, Insert] = {
    "COPY into the table": _by_copy,
    "FROM unnest(...), numbers binary": partial(_by_unnest, _BINARY, False),
    "FROM unnest(...), numbers as text": partial(_by_unnest, _TEXT, True),
    "SELECT unnest(...), numbers as text": partial(_by_unnest, _SELECTED, True),
    "SELECT unnest(...), a plain insert": partial(_by_unnest, _PLAIN, True),
    "COPY into a temporary table, then INSERT ... SELECT": _by_staging,
    "jsonb_to_recordset": _by_json,
    "a statement a row, pipelined": _by_many,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inserts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=1, help="of each way in each round, about; default 1")
    parser.add_argument("--customers", type=int, default=100)
    options = parser.parse_args()
    with temporary_folder() as folder, postgresql(folder) as url:
        stage = Stage(url, folder, options.customers, choose_generator()[1], [], [])
        ways = _ways(stage)
        measure(ways, options.rounds, options.seconds)
        facts = {"database": f"PostgreSQL {query(url, 'SHOW server_version')}", "customers": options.customers}
        print(circumstances(facts), table(way.samples for way in ways), sep="\n\n")


def _ways(stage: Stage) -> list[Way]:
    urls = {name: stage.database(f"insert_{number}").url for number, name in enumerate(INSERTS)}
    ours = stage.database("insert_service").url
    return [
        Way(Samples(f"{size:,} rows", name, "rows/s"), run)
        for size in SIZES
        for name, run in (
            ("the service's recorder: rollups and outcomes too", partial(_record, stage, ours, size)),
            *((name, partial(_run, stage, urls[name], insert, size)) for name, insert in INSERTS.items()),
        )
    ]


def _groups(stage: Stage, size: int, name: str, seconds: int) -> list[list[bytes]]:
    workload = Workload(f"{name}-{size}", stage.customers)
    return [workload.bodies(size) for _ in range(max(1, min(seconds * RECORDS_PER_SECOND // size, 100)))]


def _record(stage: Stage, url: str, size: int, name: str, seconds: int) -> Sample:
    groups = [records(bodies) for bodies in _groups(stage, size, name, seconds)]
    database = Database(Settings(database_url=url))

    async def run() -> Sample:
        await database.open()
        recorder = GroupCommit(database, size)
        try:
            async with database.connection() as connection:
                before = _cpu_seconds(pid := connection.get_server_pid())
            costs = [await _timed(recorder.record_batch([Submission(r, None) for r in group])) for group in groups]
            return _sample(costs, _cpu_seconds(pid) - before, size)
        finally:
            await database.close()

    return asyncio.run(run())


def _run(stage: Stage, url: str, insert: Insert, size: int, name: str, seconds: int) -> Sample:
    groups = _groups(stage, size, name, seconds)

    async def run() -> Sample:
        connection = await asyncpg.connect(url)
        try:
            before = _cpu_seconds(pid := connection.get_server_pid())
            costs = [await insert(connection, group) for group in groups]
            return _sample(costs, _cpu_seconds(pid) - before, size)
        finally:
            await connection.close()

    return asyncio.run(run())


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _sample(costs: Sequence[Cost], backend_cpu: float, size: int) -> Sample:
    number = size * len(costs)
    cpu = sum(cost.cpu for cost in costs) + backend_cpu
    return Sample(number / sum(cost.seconds for cost in costs), cpu_us=cpu / number * 1e6)


if __name__ == "__main__":
    main()
