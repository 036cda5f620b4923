"""Databases on a cluster of Citus: BILLING_TEST_CITUS_URL names one on its coordinator that knows the workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from billing_service.database.distribution import distribute
from billing_service.database.migrations import migrate
from billing_service.settings import Settings

NODES = "SELECT nodename, nodeport FROM pg_dist_node WHERE isactive AND noderole = 'primary' ORDER BY groupid"
SHARDS = 4
ADD = "SELECT citus_add_node($1, $2)"


class Cluster:
    """A cluster of Citus. Each of its nodes can be reached from here by the name that the others know it by."""

    def __init__(self, url: str) -> None:
        self.url = url

    def url_of(self, database: str, node: tuple[str, int] | None = None) -> str:
        """The URL of a database, on the coordinator or on another node."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2] if node is None else f"{node[0]}:{node[1]}"
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host, path=f"/{database}"))

    def url_of_all(self, database: str, nodes: list[tuple[str, int]]) -> str:
        """The URL of a database that names several nodes."""
        urls = [urlsplit(self.url_of(database, node)) for node in nodes]
        user, at, _ = urls[0].netloc.rpartition("@")
        hosts = ",".join(url.netloc.rpartition("@")[2] for url in urls)
        return urlunsplit(urls[0]._replace(netloc=f"{user}{at}{hosts}"))

    async def nodes(self) -> list[tuple[str, int]]:
        """Where the nodes listen, the coordinator first."""
        async with _connected(self.url) as connection:
            return [tuple(row) for row in await connection.fetch(NODES)]

    async def create(self, name: str) -> None:
        """Create a database on all nodes that forms a cluster as this one does."""
        nodes = await self.nodes()
        await asyncio.gather(*(self._create(name, node) for node in nodes))
        async with _connected(self.url_of(name)) as connection:
            await connection.execute("SELECT citus_set_coordinator_host($1, $2)", *nodes[0])
            for node in nodes[1:]:
                await _add(connection, node)

    async def _create(self, name: str, node: tuple[str, int]) -> None:
        await self.execute(f'CREATE DATABASE "{name}"', node)
        async with _connected(self.url_of(name, node)) as connection:
            await connection.execute("CREATE EXTENSION citus")

    async def execute(self, statement: str, node: tuple[str, int]) -> None:
        """Execute a statement on a node."""
        async with _connected(self.url_of(_database(self.url), node)) as connection:
            await connection.execute("SET citus.enable_ddl_propagation = off")  # each node is told by itself
            await connection.execute(statement)

    async def distribute(self, name: str) -> None:
        """Give a database the service's schema, distributed."""
        settings = Settings(database_url=self.url_of(name))
        await migrate(settings)
        async for _ in distribute(settings, SHARDS):
            pass

    async def drop(self, name: str) -> None:
        """Drop a database on all nodes."""
        await asyncio.gather(*(self._drop(name, node) for node in await self.nodes()))

    async def _drop(self, name: str, node: tuple[str, int]) -> None:
        await self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', node)


async def _add(connection: "asyncpg.Connection[asyncpg.Record]", node: tuple[str, int], attempts: int = 5) -> None:
    """Add a node. Citus at times loses a connection to a database that is only just made."""
    try:
        await connection.execute(ADD, *node)
    except asyncpg.InternalServerError:
        if attempts == 1:
            raise
        await _add(connection, node, attempts - 1)


def _database(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
