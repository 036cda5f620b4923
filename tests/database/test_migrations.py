"""Migrations: applied once, by one program at a time, all of them or none."""

import asyncio
import re
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from billing_service.database.migrations import Migration, MigrationError, check_schema, load_migrations, migrate
from billing_service.database.queries import SQL_FOLDER
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.databases import execute

TABLES = "SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
VERSIONS = "SELECT array_agg(version ORDER BY version) FROM schema_migrations"
SHIPPED = load_migrations()


async def schema_error(url: str) -> str | None:
    """What `check_schema` has to say of a database."""
    connection = await asyncpg.connect(url)
    try:
        await check_schema(connection)
    except MigrationError as error:
        return str(error)
    finally:
        await connection.close()
    return None


async def test_an_empty_database_gets_the_schema_and_a_second_run_does_nothing(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    assert await migrate(settings) == SHIPPED
    assert await migrate(settings) == []
    assert await execute(empty_database_url, TABLES) == [
        "api_keys",
        "changes",
        "console_sessions",
        "credit_rollups",
        "customers",
        "dimension_rollups",
        "issued_statements",
        "prepared_dimensions",
        "schema_migrations",
        "service_activity",
        "statements",
        "usage_piece_parts",
        "usage_pieces",
        "usage_records",
        "usage_refusals",
        "usage_rollups",
        "usage_voids",
    ]
    assert await execute(empty_database_url, VERSIONS) == [migration.version for migration in SHIPPED]


async def test_of_ten_at_once_one_migrates_and_the_others_find_it_done(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    applied = await asyncio.gather(*(migrate(settings) for _ in range(10)))
    assert sorted(len(migrations) for migrations in applied) == [0] * 9 + [len(SHIPPED)]
    assert await execute(empty_database_url, VERSIONS) == [migration.version for migration in SHIPPED]


async def test_what_came_later_is_added_to_what_is_there(database_url: str) -> None:
    later = Migration(len(SHIPPED) + 1, "later", ["CREATE TABLE later (id integer CONSTRAINT later_pkey PRIMARY KEY)"])
    assert await migrate(Settings(database_url=database_url), [*SHIPPED, later]) == [later]
    assert await execute(database_url, "SELECT name FROM schema_migrations ORDER BY version DESC LIMIT 1") == "later"


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    faulty = Migration(len(SHIPPED) + 1, "faulty", ["CREATE TABLE faulty (id integer)", "SELECT no_such_column"])
    with pytest.raises(asyncpg.UndefinedColumnError):
        await migrate(Settings(database_url=empty_database_url), [*SHIPPED, faulty])
    assert await execute(empty_database_url, TABLES) is None


async def test_usage_does_not_wait_behind_a_migration_that_waits_for_a_long_read(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    later = Migration(len(SHIPPED) + 1, "later", ["ALTER TABLE usage_records ADD COLUMN later integer"])
    settings, told = Settings(database_url=database_url), asyncio.Queue[str]()
    await given_customer(http)
    async with connection.transaction():
        await connection.execute("SELECT FROM usage_records")  # as a backup does for hours
        migrating = asyncio.create_task(migrate(settings, [*SHIPPED, later], told.put_nowait))
        async with asyncio.timeout(60):
            assert "Waiting for a table" in await told.get()
            (await post(http, "/usage", usage())).require(201)
        assert not migrating.done()
    assert await migrating == [later]


async def test_an_index_of_a_large_table_is_built_while_usage_is_recorded(
    empty_database_url: str,
) -> None:
    settings, told = Settings(database_url=empty_database_url), asyncio.Queue[str]()
    await migrate(settings, SHIPPED[:11])
    await execute(empty_database_url, "DROP INDEX usage_rollups_bucket_idx", "SELECT 1")
    writer = await asyncpg.connect(empty_database_url)
    async with writer.transaction():
        await writer.execute("DELETE FROM usage_rollups")  # holds what a plain CREATE INDEX waits for
        migrating = asyncio.create_task(migrate(settings, SHIPPED[:12], told.put_nowait))
        async with asyncio.timeout(60):
            assert "usage_rollups_bucket_idx" in await told.get()
    assert [migration.version for migration in await migrating] == [12]
    await writer.close()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'usage_rollups_bucket_idx'::regclass"
    assert await execute(empty_database_url, valid)


async def test_a_database_that_is_too_new_is_refused_and_left_as_it_is(database_url: str) -> None:
    await execute(database_url, "INSERT INTO schema_migrations VALUES (9999, 'breaks', now(), true)", "SELECT 1")
    with pytest.raises(MigrationError, match=r"version 9999, too new for this program, which knows \d+"):
        await migrate(Settings(database_url=database_url))
    assert await execute(database_url, VERSIONS) == [*(migration.version for migration in SHIPPED), 9999]
    assert "too new for this program" in (await schema_error(database_url) or "")


async def test_a_program_runs_on_a_newer_schema_that_does_not_break_it(
    http: aiohttp.ClientSession, database_url: str
) -> None:
    later = Migration(len(SHIPPED) + 1, "later", ["CREATE TABLE later (id integer CONSTRAINT later_pkey PRIMARY KEY)"])
    breaking = Migration(len(SHIPPED) + 2, "breaking", ["DROP TABLE later"], breaking=True)
    settings = Settings(database_url=database_url)
    await given_customer(http)
    await migrate(settings, [*SHIPPED, later])
    (await get(http, "/readyz")).require(200)
    (await post(http, "/usage", usage())).require(201)
    assert await schema_error(database_url) is None
    assert await migrate(settings) == []
    await migrate(settings, [*SHIPPED, later, breaking])
    assert "too new" in (await get(http, "/readyz")).problem("unavailable")["detail"]


async def test_a_table_made_by_an_earlier_program_gets_its_new_column(empty_database_url: str) -> None:
    await execute(
        empty_database_url,
        "CREATE TABLE schema_migrations (version integer CONSTRAINT schema_migrations_pkey PRIMARY KEY, name text,"
        " applied_at timestamptz)",
        "SELECT 1",
    )
    assert await migrate(Settings(database_url=empty_database_url)) == SHIPPED
    assert await schema_error(empty_database_url) is None


async def test_the_schema_is_checked_without_being_changed(empty_database_url: str, database_url: str) -> None:
    assert await schema_error(database_url) is None
    error = await schema_error(empty_database_url)
    assert error is not None
    assert "at version 0" in error
    assert "billing-service migrate" in error
    assert await execute(empty_database_url, TABLES) is None


FILL_1 = (
    "INSERT INTO customers VALUES ('acme', 'Acme', now(), now()), ('b', 'B', now(), now())",
    """SELECT record_usage(
           array_agg(customer_id), array_agg(request_id), array_agg(n::text), array_agg('s' || n % 3),
           array_agg(n::text), array_agg('0.07'::text),
           array_agg(timestamptz '1999-12-30T00:00:00Z' + n * interval '37 minutes'), array_agg(now()),
           array_agg(NULL::text)
       )
       FROM (
           SELECT customer_id, n,
               sha256(convert_to(format('["event.v1","%s","%s"]', customer_id, n), 'UTF8')) AS request_id
           FROM customers, generate_series(1, 200) AS n ORDER BY customer_id, request_id
       ) AS reported""",
    """INSERT INTO usage_voids
       SELECT customer_id, request_id, 'reason', 'who', now() FROM usage_records WHERE event_id = '5'""",
    """UPDATE usage_rollups SET records = records - 1, units = units - 5, amount = amount - 0.35
       WHERE service = 's2' AND (grain_minutes, bucket) IN ((15, '1999-12-30T03:00Z'), (1440, '1999-12-30T00:00Z'))""",
    "SELECT count(*) FROM usage_records",
)


async def test_sums_of_days_become_sums_of_three_hours(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    await migrate(settings, SHIPPED[:3])
    assert await execute(empty_database_url, *FILL_1) == 400
    await migrate(settings)
    report = await verify_ledger(settings)
    assert (report.records, report.differences) == (400, [])
    minutes = "SELECT array_agg(DISTINCT bucket_minutes::integer ORDER BY bucket_minutes::integer) FROM usage_rollups"
    assert await execute(empty_database_url, minutes) == [15, 180]


async def test_programs_of_an_earlier_version_go_on_recording(database_url: str) -> None:
    assert await execute(database_url, *FILL_1[:2], FILL_1[-1]) == 400
    assert await execute(database_url, FILL_1[1], FILL_1[-1]) == 400
    assert (await verify_ledger(Settings(database_url=database_url))).differences == []


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def test_a_file_is_split_into_its_statements(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        **{
            "0001_first": "-- why; it is so\nCREATE TABLE a (\n    t text DEFAULT ';' NOT NULL\n);\n\nSELECT 1;  \n",
            "0002_second": "SELECT 2;",
        },
    )
    first, second = load_migrations(folder)
    assert (first.version, first.name, len(first.statements)) == (1, "first", 2)
    assert first.statements[1] == "SELECT 1"
    assert second == Migration(2, "second", ["SELECT 2"])


def test_a_file_says_itself_that_it_breaks_older_programs(tmp_path: Path) -> None:
    text = "-- Drops a column.\n-- breaking: programs before it read the column\nSELECT 1;"
    first, second = load_migrations(write(tmp_path, **{"0001_first": "SELECT 1;", "0002_second": text}))
    assert (first.breaking, second.breaking) == (False, True)


@pytest.mark.parametrize(
    "names",
    [
        ["0002_a"],
        ["0001_a", "0003_b"],
        ["0001_a", "0001_b"],
        ["0001_a", "2_b"],
        ["0001_a", "0002-b"],
        ["0001_a", "notes"],
    ],
)
def test_files_that_are_not_numbered_without_a_gap_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(MigrationError, match="not numbered"):
        load_migrations(write(tmp_path, **dict.fromkeys(names, "SELECT 1;")))


SHARD = r"_[0-9]{6,}$"  # what a cluster appends to the names of its shards


async def test_every_constraint_and_index_has_the_name_the_files_give_it(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    files = [
        *(SQL_FOLDER / "migrations").glob("*.sql"),
        SQL_FOLDER / "schema_migrations.sql",
        SQL_FOLDER / "indexes.sql",
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    rows = await connection.fetch(
        """SELECT conname AS name FROM pg_constraint JOIN pg_namespace n ON n.oid = connamespace
           WHERE nspname = 'public' AND contype <> 'n'
           UNION SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"""
    )
    assert rows
    names = {re.sub(SHARD, "", row["name"]) for row in rows}
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


# all of them are small
UNDISTRIBUTED = [
    *("schema_migrations", "api_keys", "service_activity", "usage_refusals", "changes", "console_sessions"),
    "prepared_dimensions",
]


async def test_every_key_begins_with_the_customer_so_that_tables_can_be_distributed(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    rows = await connection.fetch(
        """SELECT indexrelid::regclass::text AS index, attname AS first
           FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
           JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = relnamespace
           WHERE nspname = 'public' AND indisunique AND regexp_replace(relname, $2, '') <> ALL($1)""",
        UNDISTRIBUTED,
        SHARD,
    )
    assert {row["first"] for row in rows} == {"customer_id"}


INSERT = """INSERT INTO usage_records
    (customer_id, request_id, service, units_consumed, price_per_unit, occurred_at, recorded_at)
    VALUES ('acme', decode(repeat($1::text, 32), 'hex'), 's', $2::text::numeric, 1, now(), now())"""


@pytest.mark.parametrize("dimensions", ["{}", "[]", '"text"', '{"a": "%s"}' % ("x" * 18_000)])
async def test_the_database_itself_refuses_what_are_no_dimensions(
    connection: "asyncpg.Connection[asyncpg.Record]", dimensions: str
) -> None:
    await connection.execute("INSERT INTO customers VALUES ('acme', 'Acme', now(), now())")
    await connection.execute(INSERT, "ab", "1.5")
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await connection.execute("UPDATE usage_records SET dimensions = $1", dimensions)
    assert '"usage_records_dimensions_check"' in str(caught.value)  # a cluster names it nowhere else


@pytest.mark.parametrize("units", ["NaN", "Infinity", "-Infinity", "-1e38", "1e38", "1e-19", "-1e-19"])
async def test_the_database_itself_refuses_amounts_out_of_range(
    connection: "asyncpg.Connection[asyncpg.Record]", units: str
) -> None:
    await connection.execute("INSERT INTO customers VALUES ('acme', 'Acme', now(), now())")
    await connection.execute(INSERT, "ab", "1.5")
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await connection.execute(INSERT, "cd", units)
    assert '"usage_records_units_consumed_check"' in str(caught.value)
