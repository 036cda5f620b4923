"""Distributes a database over the nodes of a Citus cluster, by customer.

Every step is a transaction, and each looks for itself what is left to do. So it may be stopped at any time and run
again, and a database that is distributed already is left as it is.
"""

import re
from collections.abc import AsyncGenerator

from msgspec import Struct

from billing_service.database.connections import Connection
from billing_service.database.pool import connected
from billing_service.database.queries import load_queries
from billing_service.settings import Settings

_QUERIES = load_queries("distribution")
_CREATES_TABLE = re.compile(r"(?:--[^\n]*\n|\s)*CREATE TABLE\b")
OLDEST_CITUS = 13


class DistributionError(Exception):
    """The database cannot be distributed. The message says what to do."""


class TableStep(Struct, frozen=True):
    """A table that is distributed, and how far that gets.

    Attributes:
        name: The table.
        by_customer: Whether it is distributed by customer, or else copied to every node.
        bytes: Its size, with its indexes.
        number: The number of this table among all, beginning with 1.
        total: How many tables there are.
    """

    name: str
    by_customer: bool
    bytes: int
    number: int
    total: int


async def distribute(settings: Settings, shards: int) -> AsyncGenerator[TableStep, None]:
    """Distribute what is not distributed yet. Yields each table before its turn.

    Args:
        settings: They name the database, one that `require_cluster` accepts.
        shards: Into how many parts the customers are divided; the tables of a customer lie together. Not changed if
            the customers are distributed already.

    Raises:
        asyncpg.PostgresError: A step failed, and changed nothing.
    """
    async with connected(settings) as connection:
        while (step := await _next_table(connection)) is not None:
            yield step
            async with connection.transaction():
                await connection.execute(_QUERIES["lock"])
                await _distribute_next(connection, shards)
        await _finish(connection)


async def distribute_new_table(connection: Connection, statement: str) -> None:
    """Within a migration of a distributed database, distribute the table that a statement has created.

    A foreign key to it, or from it, has to be added by a later statement. Raises what asyncpg raises.
    """
    if _CREATES_TABLE.match(statement):
        await _distribute_next(connection, shards=1)


async def write_in_sequence(connection: Connection) -> None:
    """Change all shards one after the other in this transaction, as some statements of migrations need it.

    Without Citus this does nothing. Raises what asyncpg raises.
    """
    await connection.execute(_QUERIES["write_in_sequence"])


async def copy_functions(connection: Connection) -> None:
    """Copy the functions to every node, and have those that record usage run on the node of the customer.

    Raises what asyncpg raises.
    """
    for function in await connection.fetch(_QUERIES["functions"]):
        name = "run_at_customer" if function["by_customer"] else "copy_function"
        await connection.execute(_QUERIES[name], function["signature"])


async def require_cluster(connection: Connection) -> int:
    """How many nodes data can be distributed over. Raises DistributionError unless this is the coordinator of some."""
    version = await connection.fetchval(_QUERIES["citus_version"])
    if version is None:
        raise DistributionError(
            "This database is not one of Citus. On every node install Citus, name it in shared_preload_libraries and "
            "run CREATE EXTENSION citus in this database; then add the nodes with citus_add_node."
        )
    if int(version.partition(".")[0]) < OLDEST_CITUS:
        raise DistributionError(f"This is Citus {version}. Update it to {OLDEST_CITUS}.0 or newer on every node.")
    cluster = await connection.fetchrow(_QUERIES["cluster"])
    if cluster is None or not cluster["is_coordinator"]:
        raise DistributionError("This node is not the coordinator. Give the coordinator's DATABASE_URL.")
    if not cluster["nodes"]:
        raise DistributionError("No node takes shards. Add workers with citus_add_node.")
    nodes: int = cluster["nodes"]
    return nodes


async def _next_table(connection: Connection) -> TableStep | None:
    row = await connection.fetchrow(_QUERIES["next_table"])
    return None if row is None else TableStep(**row)


async def _distribute_next(connection: Connection, shards: int) -> None:
    """Distribute the next table. Another program may have been faster."""
    step = await _next_table(connection)
    if step is None:
        return
    await write_in_sequence(connection)
    await connection.execute(_QUERIES["drop_triggers"])
    if step.name == "customers":
        await connection.execute(_QUERIES["distribute_customers"], shards)
    else:
        name = "distribute_by_customer" if step.by_customer else "copy_to_all"
        await connection.execute(_QUERIES[name], step.name)


async def _finish(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(_QUERIES["lock"])
        await write_in_sequence(connection)
        await copy_functions(connection)
    await connection.execute(_QUERIES["set_up"])
    while (row := await connection.fetchrow(_QUERIES["left_behind"])) is not None:
        await connection.execute(_QUERIES["drop_left_behind"], row["name"])
