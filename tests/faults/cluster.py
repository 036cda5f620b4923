"""`python -m tests.faults.cluster`: usage is reported to a cluster of Citus while its nodes fail and its shards move.

BILLING_TEST_CITUS_URL names the cluster. The service's URL names all of its nodes. With --crash, a process of each node
is killed too, which makes the node end all others and recover; for that the nodes have to run on this machine, and hold
nothing that matters.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import click

from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import key, post, usage
from tests.citus import Cluster
from tests.databases import execute
from tests.services import running_service

CUSTOMERS = [f"customer-{n}" for n in range(24)]
SINGLES, BATCHES, BATCH_RECORDS = 12, 3, 60
PATIENCE_SECONDS = 120.0
AWAY_SECONDS = 2.0
STORED = "SELECT customer_id || ' ' || event_id AS place, count(*) AS copies FROM usage_records GROUP BY 1"
NODES = """SELECT customer, nodeport
    FROM unnest($1::text[]) AS customer
    JOIN pg_dist_placement ON shardid = get_shard_id_for_distribution_column('usage_records', customer)
    JOIN pg_dist_node USING (groupid)"""
PLACEMENTS = """SELECT placement.shardid, node.nodename, node.nodeport, other.nodename, other.nodeport
    FROM pg_dist_placement AS placement
    JOIN pg_dist_shard USING (shardid)
    JOIN pg_dist_node AS node ON node.groupid = placement.groupid
    JOIN pg_dist_node AS other ON other.groupid <> node.groupid AND other.shouldhaveshards
    WHERE logicalrelid = 'usage_records'::regclass ORDER BY random() LIMIT 1"""


class Run:
    """What is reported, what was acknowledged, and what went wrong."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.url = cluster.url_of(name)
        self.acknowledged: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.nodes: dict[str, int] = {}  # of the customers, by port
        self.away: int | None = None  # the port of the node that takes no connections
        self.meanwhile: Counter[tuple[str, int]] = Counter()  # who was answered what while a node was away
        self.violations: list[str] = []
        self.over = False

    async def report(self, http: aiohttp.ClientSession, path: str, body: object, places: list[str]) -> None:
        """Send a call until it is acknowledged, under one key."""
        name, deadline = str(uuid4()), time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = await post(http, path, body, key(name))
            self.statuses[answer.status] += 1
            if self.away is not None and path == "/usage":
                whose = "its customers" if self.nodes[places[0].partition(" ")[0]] == self.away else "others"
                self.meanwhile[whose, answer.status] += 1
            if answer.status in (200, 201):
                refused = [each for each in answer.body.get("results", ()) if "problem" in each]
                self.violations += [f"refused: {each}" for each in refused]
                self.acknowledged.update(places)
                return
            if answer.status != 503:
                self.violations.append(f"{path} was answered {answer.status}: {answer.body}")
                return
            await asyncio.sleep(0.05)
        self.violations.append(f"{path} was not acknowledged in {PATIENCE_SECONDS:.0f} s")

    async def singles(self, http: aiohttp.ClientSession, number: int) -> None:
        count = 0
        while not self.over:
            customer, event = random.choice(CUSTOMERS), f"single {number} {count}"
            await self.report(http, "/usage", usage(customerId=customer, eventId=event), [f"{customer} {event}"])
            count += 1

    async def batches(self, http: aiohttp.ClientSession, number: int) -> None:
        count = 0
        while not self.over:
            events = [(random.choice(CUSTOMERS), f"batch {number} {count} {n}") for n in range(BATCH_RECORDS)]
            records = [usage(customerId=customer, eventId=event) for customer, event in events]
            await self.report(http, "/usage/batch", {"records": records}, [f"{c} {event}" for c, event in events])
            count += 1

    async def end_backends(self, node: tuple[str, int]) -> None:
        """End every connection to a node."""
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
        await self.cluster.execute(f"{end} '{self.name}' AND pid <> pg_backend_pid()", node)

    async def close(self, node: tuple[str, int]) -> None:
        """A node takes no connections for a while. The coordinator holds no customers."""
        self.nodes = await self.nodes_of_customers()
        await self.cluster.execute(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS false', node)
        try:
            await self.end_backends(node)
            self.away = node[1]
            await asyncio.sleep(AWAY_SECONDS)
        finally:
            self.away = None
            await self.cluster.execute(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS true', node)

    async def nodes_of_customers(self) -> dict[str, int]:
        """The port of the node of each customer."""
        connection = await asyncpg.connect(self.url)
        try:
            return {row["customer"]: row["nodeport"] for row in await connection.fetch(NODES, CUSTOMERS)}
        finally:
            await connection.close()

    async def crash(self, node: tuple[str, int]) -> None:
        """Kill a process of a node: it ends all others, and recovers."""
        connection = await asyncpg.connect(self.cluster.url_of(urlsplit(self.cluster.url).path.lstrip("/"), node))
        os.kill(connection.get_server_pid(), signal.SIGKILL)
        connection.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                await self.cluster.execute("SELECT 1", node)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.1)
            else:
                return
        self.violations.append(f"node {node} does not come back")

    async def move_shards(self, _: tuple[str, int]) -> None:
        """Move the usage of some customers to another node."""
        connection = await asyncpg.connect(self.url)
        try:
            move = await connection.fetchrow(PLACEMENTS)
            if move is not None:
                await connection.execute("SELECT citus_move_shard_placement($1, $2, $3, $4, $5)", *move)
        finally:
            await connection.close()

    async def rebalance(self, _: tuple[str, int]) -> None:
        """Spread the shards evenly, which were moved to some node before."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute("SELECT citus_rebalance_start(shard_transfer_mode => 'force_logical')")
            await connection.execute("SELECT citus_rebalance_wait()")
        finally:
            await connection.close()

    async def make_faults(self, rounds: int, *, crash: bool) -> None:
        """Each fault at each node, so many times."""
        faults: dict[str, Callable[[tuple[str, int]], Awaitable[None]]] = {
            "connections ended": self.end_backends,
            "away for two seconds": self.close,
            "shards moved": self.move_shards,
            "rebalanced": self.rebalance,
        }
        if crash:
            faults["crashed"] = self.crash
        nodes = await self.cluster.nodes()
        for _ in range(rounds):
            for name, fault in faults.items():
                for node in nodes:
                    await asyncio.sleep(0.5)
                    await _repeated(fault, node)
                    self.faults[name] += 1

    async def check(self) -> None:
        """Hold what is stored against what was acknowledged."""
        connection = await asyncpg.connect(self.url)
        stored = {row["place"]: row["copies"] for row in await connection.fetch(STORED)}
        await connection.close()
        lost = self.acknowledged - stored.keys()
        doubled = [place for place, copies in stored.items() if copies > 1]
        self.violations += [f"{len(lost)} lost: {min(lost)}"] if lost else []
        self.violations += [f"{len(doubled)} doubled: {doubled[0]}"] if doubled else []
        self.violations += (await verify_ledger(Settings(database_url=self.url))).differences
        for node in await self.cluster.nodes():
            await self._require_settled(self.cluster.url_of(self.name, node))

    async def _require_settled(self, url: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await execute(url, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"):
            if time.monotonic() > deadline:
                self.violations.append("a transaction stays prepared")
                return
            await asyncio.sleep(0.5)


async def _repeated(fault: Callable[[tuple[str, int]], Awaitable[None]], node: tuple[str, int]) -> None:
    """Make a fault, again if Citus could not reach a node that has only just come back."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await fault(node)
        except asyncpg.InternalServerError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)


async def run_faults(cluster: Cluster, name: str, rounds: int, *, crash: bool = False) -> Run:
    """Report usage to a distributed database of this name while its nodes fail, and check what came of it."""
    run = Run(cluster, name)
    values = ", ".join(f"('{customer}', 'Name', now(), now())" for customer in CUSTOMERS)
    await execute(
        run.url, f"INSERT INTO customers (customer_id, name, created_at, updated_at) VALUES {values}", "SELECT 1"
    )
    url = cluster.url_of_all(name, await cluster.nodes())
    with running_service(Settings(database_url=url, database_timeout=5)) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            producers = [asyncio.create_task(run.singles(http, n)) for n in range(SINGLES)]
            producers += [asyncio.create_task(run.batches(http, n)) for n in range(BATCHES)]
            try:
                await run.make_faults(rounds, crash=crash)
            finally:
                run.over = True
                await asyncio.gather(*producers)
    await run.check()
    return run


async def _run(rounds: int, crash: bool) -> Run:
    url = os.environ.get("BILLING_TEST_CITUS_URL")
    if url is None:
        sys.exit("BILLING_TEST_CITUS_URL names no cluster.")
    cluster, name = Cluster(url), f"billing_faults_{uuid4().hex[:12]}"
    await cluster.create(name)
    try:
        await cluster.distribute(name)
        return await run_faults(cluster, name, rounds, crash=crash)
    finally:
        await cluster.drop(name)


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often each fault hits each node.")
@click.option("--crash", is_flag=True, help="Crash the nodes too.")
def main(rounds: int, crash: bool) -> None:
    """Report usage while the nodes of a cluster fail, and check that nothing is lost and nothing doubled."""
    run = asyncio.run(_run(rounds, crash))
    click.echo(f"{len(run.acknowledged):,} records acknowledged; {dict(run.faults)}; answers {dict(run.statuses)}")
    click.echo(f"single calls while a node was away: {dict(run.meanwhile)}")
    for violation in run.violations[:20]:
        click.echo(f"violated: {violation}")
    sys.exit(1 if run.violations else 0)


if __name__ == "__main__":
    main()
