"""The nodes of a database that is distributed by customer (Citus), and which of them holds whose usage."""

import asyncio
from collections.abc import Iterable

from billing_service.database.connections import Connection
from billing_service.database.queries import load_queries

_QUERIES = load_queries("nodes")
MAX_CUSTOMERS = 100_000  # whose node is remembered
REMEMBERED_SECONDS = 60.0  # shards may be moved without an error
THE_ONE = 0  # the node of a database that is not distributed


class _Node:
    """A node, as long as it is not forgotten."""

    __slots__ = ("address", "is_forgotten", "number")

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.is_forgotten = False


class Nodes:
    """Remembers which node holds whose usage. It is a hint: usage sent to another node is recorded all the same."""

    def __init__(self) -> None:
        self._is_one = False
        self._places: dict[str, _Node] = {}  # by customer
        self._nodes: dict[int, _Node] = {}
        self._until = 0.0

    @property
    def is_one(self) -> bool:
        """Whether the database is known not to be distributed."""
        return self._is_one

    def of(self, customer_id: str) -> int | None:
        """The number of the node of a customer; None if it has to be looked up."""
        if self._is_one:
            return THE_ONE
        node = self._places.get(customer_id)
        return None if node is None or node.is_forgotten else node.number

    def address(self, node: int | None) -> str | None:
        """Where a node listens, as the others know it: `host:port`. None if it is not known, or the only one."""
        known = None if node is None else self._nodes.get(node)
        return None if known is None else known.address

    async def look_up(self, connection: Connection, customer_ids: Iterable[str]) -> None:
        """Look up the nodes of customers. Raises what asyncpg raises.

        A database that is not distributed is asked once.
        """
        if not self._is_one and not self._places:
            self._is_one = not await is_distributed(connection)
        if self._is_one:
            return
        if len(self._places) > MAX_CUSTOMERS:
            self._places.clear()
        rows = await connection.fetch(_QUERIES["nodes_of_customers"], list(customer_ids))
        if not self._places:
            self._until = asyncio.get_running_loop().time() + REMEMBERED_SECONDS
        for row in rows:
            node = self._nodes.get(row["node"])
            if node is None or node.is_forgotten or node.address != row["address"]:
                node = self._nodes[row["node"]] = _Node(row["node"], row["address"])
            self._places[row["customer_id"]] = node

    def refresh(self) -> None:
        """Forget what was remembered for long."""
        if self._places and asyncio.get_running_loop().time() > self._until:
            self._places.clear()

    def forget(self, node: int | None) -> None:
        """Look up again who is on a node: shards may have moved, or another node has taken over."""
        if (known := None if node is None else self._nodes.get(node)) is not None:
            known.is_forgotten = True


async def is_distributed(connection: Connection) -> bool:
    """Whether the database is distributed by customer. Raises what asyncpg raises."""
    if not await connection.fetchval(_QUERIES["has_citus"]):
        return False
    answer: bool = await connection.fetchval(_QUERIES["is_distributed"])
    return answer
