"""The nodes of a database that is distributed by customer (Citus), and which of them holds whose usage."""

import asyncio
from collections.abc import Iterable

from billing_service.database.connections import Connection
from billing_service.database.queries import load_queries

_QUERIES = load_queries("nodes")
MAX_CUSTOMERS = 100_000  # whose node is remembered
REMEMBERED_SECONDS = 60.0  # shards may be moved without an error
THE_ONE = 0  # the node of a database that is not distributed


class Nodes:
    """Remembers which node holds whose usage. It is a hint: usage sent to another node is recorded all the same."""

    def __init__(self) -> None:
        self._is_one = False
        self._nodes: dict[str, int] = {}
        self._addresses: dict[int, str] = {}
        self._until = 0.0

    @property
    def is_one(self) -> bool:
        """Whether the database is known not to be distributed."""
        return self._is_one

    def of(self, customer_id: str) -> int | None:
        """The number of the node of a customer; None if it has to be looked up."""
        return THE_ONE if self._is_one else self._nodes.get(customer_id)

    def address(self, node: int | None) -> str | None:
        """Where a node listens, as the others know it: `host:port`. None if it is not known, or the only one."""
        return None if node is None else self._addresses.get(node)

    async def look_up(self, connection: Connection, customer_ids: Iterable[str]) -> None:
        """Look up the nodes of customers. Raises what asyncpg raises.

        A database that is not distributed is asked once.
        """
        if not self._is_one and not self._nodes:
            self._is_one = not await is_distributed(connection)
        if self._is_one:
            return
        if len(self._nodes) > MAX_CUSTOMERS:
            self.forget()
        rows = await connection.fetch(_QUERIES["nodes_of_customers"], list(customer_ids))
        if not self._nodes:
            self._until = asyncio.get_running_loop().time() + REMEMBERED_SECONDS
        self._nodes |= {row["customer_id"]: row["node"] for row in rows}
        self._addresses |= {row["node"]: row["address"] for row in rows}

    def refresh(self) -> None:
        """Forget what was remembered for long."""
        if self._nodes and asyncio.get_running_loop().time() > self._until:
            self.forget()

    def forget(self) -> None:
        """Look all up again: shards may have moved, or another node has taken over."""
        self._nodes.clear()


async def is_distributed(connection: Connection) -> bool:
    """Whether the database is distributed by customer. Raises what asyncpg raises."""
    if not await connection.fetchval(_QUERIES["has_citus"]):
        return False
    answer: bool = await connection.fetchval(_QUERIES["is_distributed"])
    return answer
