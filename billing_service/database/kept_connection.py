"""A dedicated connection for one caller that makes one call after the other."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import asyncpg

from billing_client.contract.deadlines import Deadlines, Limit
from billing_service.database.connections import Connection
from billing_service.database.faults import (
    FAULTS,
    DatabaseUnavailableError,
    as_unavailable,
    is_of_statement,
    unavailable_if_away,
)
from billing_service.database.replication import StandbyWait

T = TypeVar("T")
IDLE_SECONDS = 300.0  # An idle connection is then replaced: a firewall or proxy in between may have dropped it.
PARTING_SECONDS = 1.0  # How long the database has to confirm a cancelled statement or a closed connection.


class KeptConnection:
    """Opened when first needed, and replaced when lost.

    Taking a connection from the pool and giving it back costs more CPU time than a small statement, and a timer for
    each call costs 2 µs more than one shared by all.

    Args:
        connect: Opens a connection. May raise DatabaseUnavailableError.
        deadlines: Limits each call.
        lost: Called when the connection was lost: others may be lost too.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record]]]",
        deadlines: Deadlines,
        lost: Callable[[], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._deadlines = deadlines
        self._lost = lost
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._good_until = 0.0
        self._wait = StandbyWait()

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` on the connection. Raises DatabaseUnavailableError."""
        try:
            with Limit(self._deadlines):
                done = await work(await self._open())
                self._wait.require_done()
                return done
        except FAULTS as error:
            unavailable = as_unavailable(error)
            if unavailable is None:
                raise
            if not is_of_statement(error):
                await self.close()
                await self._lost()
            raise unavailable from error

    async def _open(self) -> "asyncpg.Connection[asyncpg.Record]":
        now = asyncio.get_running_loop().time()
        if self._connection is not None and now > self._good_until:
            self._connection.terminate()
        self._good_until = now + IDLE_SECONDS
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            self._wait = StandbyWait()  # The old connection may still report a cancelled wait.
            self._wait.watch(self._connection)
        return self._connection

    def distrust(self) -> None:
        """Replace the connection before the next call: what broke another may have broken this one."""
        self._good_until = 0.0

    def terminate(self) -> None:
        """Drop the connection at once, with the statement on it."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Close the connection, once the database has answered its last statement."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DatabaseUnavailableError), unavailable_if_away():
                await connection.close(timeout=PARTING_SECONDS)
