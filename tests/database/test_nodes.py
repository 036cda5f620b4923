"""A database that is distributed over several nodes: each has its own writer, and one that is away harms no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from billing_service.database.nodes import Nodes
from billing_service.database.queries import SQL_FOLDER, load_queries
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import Answer, get, key, post, stored, usage
from tests.citus import Cluster
from tests.databases import Server, execute
from tests.services import running_service

OURS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'billing-service'"""
CUSTOMERS = [f"customer-{n}" for n in range(12)]


@pytest.fixture
def cluster(database_server: Server) -> Cluster:
    """The cluster of this run."""
    if not database_server.is_cluster:
        pytest.skip("needs a cluster of Citus: set BILLING_TEST_CITUS_URL")
    return Cluster(database_server.url)


async def nodes_of_customers(url: str) -> dict[str, int]:
    """The number of the node of each customer."""
    connection = await asyncpg.connect(url)
    try:
        nodes = Nodes()
        await nodes.look_up(connection, CUSTOMERS)
        return {name: nodes.of(name) or 0 for name in CUSTOMERS}
    finally:
        await connection.close()


@asynccontextmanager
async def away(cluster: Cluster, name: str, node: int) -> AsyncIterator[None]:
    """A node lets nobody use a database of this name within the block."""
    url = (await cluster.nodes())[node]
    await cluster.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false', url)
    try:
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
        await cluster.execute(f"{end} '{name}'", url)
        yield
    finally:
        await cluster.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true', url)


async def report(http: aiohttp.ClientSession, customer: str, event: str) -> Answer:
    return await post(http, "/usage", usage(customerId=customer, eventId=event), key(f"{customer}-{event}"))


async def test_a_node_that_is_away_costs_its_own_customers_alone(cluster: Cluster, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    nodes = await nodes_of_customers(database_url)
    gone = max(nodes.values())
    assert len(set(nodes.values())) > 1
    with running_service(Settings(database_url=database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            for customer in CUSTOMERS:
                await post(http, "/customers", {"id": customer, "name": customer})
                (await report(http, customer, "before")).require(201)
            here = [customer for customer in CUSTOMERS if nodes[customer] != gone]
            there = [customer for customer in CUSTOMERS if nodes[customer] == gone]
            async with away(cluster, name, gone):
                for n in range(3):
                    for customer in here:
                        (await report(http, customer, f"meanwhile {n}")).require(201)
                    for customer in there:
                        (await report(http, customer, f"meanwhile {n}")).problem("unavailable")
                batch = {"records": [usage(customerId=customer, eventId="batch") for customer in CUSTOMERS]}
                (await post(http, "/usage/batch", batch, key("batch"))).problem("unavailable")
                ours = {"records": [usage(customerId=customer, eventId="ours") for customer in here]}
                assert outcomes(await post(http, "/usage/batch", ours)) == ["recorded"] * len(here)
            assert set(outcomes(await post(http, "/usage/batch", batch, key("batch")))) == {"recorded", "replayed"}
            for customer in CUSTOMERS:
                (await report(http, customer, "meanwhile 0")).require(201)
                events = sorted(record["eventId"] for record in await stored(http, customer))
                assert events == sorted(
                    ["batch", "before", "meanwhile 0"]
                    + (["meanwhile 1", "meanwhile 2", "ours"] if customer in here else [])
                )


def outcomes(answer: Answer) -> list[str]:
    return [result["outcome"] for result in answer.require(200)["results"]]


async def test_a_coordinator_that_is_away_costs_nothing_where_another_node_is_named(
    cluster: Cluster, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    url = cluster.url_of_all(name, await cluster.nodes())
    with running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            for customer in CUSTOMERS:
                await post(http, "/customers", {"id": customer, "name": customer})
                (await report(http, customer, "before")).require(201)
            batch = {"records": [usage(customerId=customer, eventId="batch") for customer in CUSTOMERS]}
            assert set(outcomes(await post(http, "/usage/batch", batch))) == {"recorded"}
            writers = [await execute(cluster.url_of(name, node), OURS) for node in (await cluster.nodes())[1:]]
            assert min(writers) >= len(["single", "batch"])
            async with away(cluster, name, 0):
                for customer in CUSTOMERS:  # none is answered 503: what is its own goes to its node
                    (await report(http, customer, "meanwhile")).require(201)
                assert set(outcomes(await post(http, "/usage/batch", batch))) == {"duplicate"}
                for customer in CUSTOMERS:
                    events = sorted(record["eventId"] for record in await stored(http, customer))
                    assert events == ["batch", "before", "meanwhile"]
                    summary = (await get(http, f"/customers/{customer}/summary")).require(200)
                    assert summary["total"]["records"] == len(events)
                async with asyncio.timeout(30):
                    while (await post(http, "/customers", {"id": "new", "name": "New"}, key("new"))).status != 201:
                        pass  # what was connected to the coordinator connects anew
                (await report(http, "new", "meanwhile")).require(201)
                assert [record["eventId"] for record in await stored(http, "new")] == ["meanwhile"]
            (await report(http, "customer-0", "afterwards")).require(201)
    assert (await verify_ledger(Settings(database_url=database_url))).differences == []


async def test_a_batch_of_all_nodes_keeps_its_order(cluster: Cluster, database_url: str) -> None:
    with running_service(Settings(database_url=database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            for customer in CUSTOMERS:
                await post(http, "/customers", {"id": customer, "name": customer})
            first = [usage(customerId=customer, eventId="1") for customer in CUSTOMERS]
            (await post(http, "/usage/batch", {"records": first})).require(200)
            mixed = [
                usage(customerId=customer, eventId=event)
                for customer in [*CUSTOMERS, "nobody"]
                for event in ("1", "2", "2")
            ]
            results = (await post(http, "/usage/batch", {"records": mixed})).require(200)["results"]
            expected = ["duplicate", "recorded", "duplicate"] * len(CUSTOMERS) + ["rejected"] * 3
            assert [result["outcome"] for result in results] == expected
            recorded = [result["record"]["customerId"] for result in results if result["outcome"] == "recorded"]
            assert recorded == CUSTOMERS


async def test_nodes_are_looked_up_anew_after_they_were_forgotten(cluster: Cluster, database_url: str) -> None:
    nodes = Nodes()
    assert nodes.of("a") is None
    connection = await asyncpg.connect(database_url)
    await nodes.look_up(connection, ["a"])
    first = nodes.of("a")
    assert first is not None
    nodes.refresh()
    assert nodes.of("a") == first
    nodes.forget(first)
    assert nodes.of("a") is None
    await connection.close()


async def test_a_database_that_is_not_distributed_has_one_node(
    database_server: Server, empty_database_url: str
) -> None:
    await execute(empty_database_url, "CREATE TABLE usage_records (customer_id text)", "SELECT 1")
    nodes = Nodes()
    connection = await asyncpg.connect(empty_database_url)
    await nodes.look_up(connection, ["a"])
    assert nodes.is_one
    assert nodes.of("a") == nodes.of("whoever") == 0
    await connection.close()


VALUES: dict[str, Any] = {
    "text": "1",
    "bytea": bytes(32),
    "timestamptz": datetime(2026, 1, 1, tzinfo=UTC),
    "interval": timedelta(minutes=15),
    "date": date(2026, 1, 1),
    "int2": 15,
    "int4": 1,
    "int8": 1,
    "numeric": Decimal(1),
    "float8": 1.0,
    "bool": True,
    "jsonb": "{}",
    "uuid": UUID(int=0),
}
OF_A_SCHEMA = {"distribution", "grants", "indexes", "schema_migrations"}  # tested with what they are for
REPLACED = {"find_many_usage"}  # where it is refused, find_usage takes its place
USES = 7  # after five uses of its own plan, a statement may get one for all values


async def test_every_query_can_be_planned_on_a_cluster(cluster: Cluster, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    refused = []
    for noun in sorted({path.stem for path in SQL_FOLDER.glob("*.sql")} - OF_A_SCHEMA):
        for name, sql in load_queries(noun).items():
            if name in REPLACED:
                continue
            try:
                async with connection.transaction():
                    await _use(connection, sql)
                    raise asyncpg.QueryCanceledError("undone")
            except (asyncpg.FeatureNotSupportedError, asyncpg.CannotCoerceError) as error:
                refused.append(f"{noun}.{name}: {error}")
            except asyncpg.PostgresError:  # the values make no sense
                pass
    await connection.close()
    assert not refused, "\n".join(refused)


async def _use(connection: "asyncpg.Connection[asyncpg.Record]", sql: str) -> None:
    statement = await connection.prepare(sql)
    types = [parameter.name for parameter in statement.get_parameters()]
    values = [[VALUES[name[:-2]]] if name.endswith("[]") else VALUES[name] for name in types]
    for _ in range(USES):
        await statement.fetch(*values)
