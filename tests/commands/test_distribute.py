"""`billing-service distribute`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from billing_service.database.distribution import TableStep, distribute
from billing_service.database.migrations import Migration, load_migrations, migrate
from billing_service.settings import Settings
from tests.calls import post, usage
from tests.citus import Cluster
from tests.commands import failure, run_command
from tests.databases import Server, execute, run
from tests.services import running_service

LOCAL = """SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND NOT relation_is_a_known_shard(oid) AND oid NOT IN (SELECT logicalrelid FROM pg_dist_partition)"""
LEFT_BEHIND = "SELECT sum(pg_relation_size(logicalrelid)) FROM pg_dist_partition"


@pytest.fixture
def cluster(database_server: Server) -> Cluster:
    """The cluster of this run."""
    if not database_server.is_cluster:
        pytest.skip("needs a cluster of Citus: set BILLING_TEST_CITUS_URL")
    return Cluster(database_server.url)


def test_a_database_without_citus_is_refused(tmp_path: Path, database_server: Server, database_url: str) -> None:
    if database_server.is_cluster:
        pytest.skip("the server has Citus")
    line = failure(tmp_path, "distribute", DATABASE_URL=database_url)
    assert "not one of Citus" in line
    assert "CREATE EXTENSION citus" in line


def test_the_embedded_database_is_not_distributed(tmp_path: Path) -> None:
    assert "DATABASE_URL: not set" in failure(tmp_path, "distribute")


async def _fill(url: str, events: range) -> None:
    """Customers and usage of theirs, by the service."""
    with running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            for name in ("a", "b", "c", "d"):
                await post(http, "/customers", {"id": name, "name": name})
            records = [usage(customerId=name, eventId=f"{n}") for n in events for name in ("a", "b", "c", "d")]
            (await post(http, "/usage/batch", {"records": records})).require(200)
            (await post(http, "/usage", usage(customerId="a", eventId=f"alone {events}"))).require(201)


def test_a_database_that_is_in_use_is_distributed_with_all_it_holds(
    cluster: Cluster, tmp_path: Path, empty_database_url: str
) -> None:
    run(migrate(Settings(database_url=empty_database_url)))
    run(_fill(empty_database_url, range(5)))
    code, output = run_command(tmp_path, "distribute", "--shards", "4", DATABASE_URL=empty_database_url)
    assert code == 0, output
    assert "customers (1 MB) by customer" in output
    assert "api_keys (1 MB) to every node" in output
    assert run(execute(empty_database_url, LOCAL)) == 0
    assert run(execute(empty_database_url, LEFT_BEHIND)) == 0
    code, output = run_command(tmp_path, "distribute", DATABASE_URL=empty_database_url)
    assert (code, output) == (0, "nothing to do\n")
    run(_fill(empty_database_url, range(3, 8)))
    code, output = run_command(tmp_path, "verify", DATABASE_URL=empty_database_url)
    assert code == 0, output
    assert ": 34 records" in output


async def test_what_was_interrupted_goes_on(cluster: Cluster, empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    await migrate(settings)
    first = [step async for step in _some(settings, 3)]
    rest = [step async for step in distribute(settings, 4)]
    assert [step.number for step in first + rest] == [1, 2, 3, *range(3, first[0].total + 1)]
    assert await execute(empty_database_url, LOCAL) == 0


async def _some(settings: Settings, count: int) -> AsyncIterator[TableStep]:
    async with aclosing(distribute(settings, 4)) as steps:
        for _ in range(count):
            yield await anext(steps)


def test_a_worker_is_refused(cluster: Cluster, tmp_path: Path, empty_database_url: str) -> None:
    run(migrate(Settings(database_url=empty_database_url)))
    worker = run(cluster.nodes())[1]
    name = empty_database_url.rpartition("/")[2]
    line = failure(tmp_path, "distribute", DATABASE_URL=cluster.url_of(name, worker))
    assert "not the coordinator" in line


async def test_a_migration_distributes_what_it_creates(cluster: Cluster, database_url: str) -> None:
    statements = [
        """CREATE TABLE notes (
            customer_id text COLLATE "C", n bigint, CONSTRAINT notes_pkey PRIMARY KEY (customer_id, n)
        )""",
        "ALTER TABLE notes ADD CONSTRAINT notes_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id)",
        "INSERT INTO notes SELECT customer_id, count(*) FROM usage_records GROUP BY customer_id",
        "CREATE FUNCTION noted(customer_id text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
    ]
    shipped = load_migrations()
    later = Migration(len(shipped) + 1, "later", statements)
    assert await migrate(Settings(database_url=database_url), [*shipped, later]) == [later]
    assert await execute(database_url, LOCAL) == 0
    assert await execute(database_url, "SELECT noted('a')") == "a"


async def test_a_new_connection_costs_little(cluster: Cluster, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SHOW citus.override_table_visibility") == "off"
    await connection.close()
    name = database_url.rpartition("/")[2]
    for node in await cluster.nodes():
        assert await execute(cluster.url_of(name, node), "SHOW citus.override_table_visibility") == "off"
