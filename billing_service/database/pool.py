"""The connection pool, and dedicated connections for the group commit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from billing_client.contract.deadlines import Deadlines
from billing_service.database.connections import Connection, PooledConnection
from billing_service.database.faults import (
    DatabaseUnavailableError,
    as_unavailable,
    is_of_statement,
    is_read_only,
    unavailable_if_away,
)
from billing_service.database.hosts import Hosts
from billing_service.database.kept_connection import IDLE_SECONDS, PARTING_SECONDS, KeptConnection
from billing_service.database.pgbouncer import PgBouncerConnection
from billing_service.database.replication import waits_for_standbys
from billing_service.settings import Settings

__all__ = [
    "PARTING_SECONDS",
    "Connection",
    "Database",
    "DatabaseUnavailableError",
    "PoolUse",
    "as_unavailable",
    "connected",
    "unavailable_if_away",
]
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TURNS_OF = 4  # All exports together hold at most one in so many connections.
SHARE_OF_THREE = 2  # Reads hold at most so many of every three connections, and so do writes; API keys use the rest.


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a connection outside the pool, for a command.

    Raises what asyncpg raises, and DatabaseUnavailableError if a commit did not reach the standbys it waits for.
    """
    connection = await Hosts(settings).connect(**_options(settings))
    try:
        with waits_for_standbys(connection):
            yield connection
    finally:
        await connection.close()


def _options(settings: Settings) -> dict[str, Any]:
    name = {"application_name": "billing-service"}
    if settings.pgbouncer:  # PgBouncer refuses settings that it does not know.
        return {"connection_class": PgBouncerConnection, "server_settings": name, "statement_cache_size": 0}
    warnings = {"client_min_messages": "warning"}  # PostgreSQL reports a cancelled wait for a standby as a warning.
    return {"connection_class": PooledConnection, "server_settings": name | warnings}


class PoolUse(NamedTuple):
    """How many connections are in use, idle, waited for, and allowed."""

    busy: int
    idle: int
    waiting: int
    capacity: int


class Database:
    """A pool and dedicated connections. Connections are opened when first needed and replaced when lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hosts = Hosts(settings, self._abandon)
        self._pool: Pool | None = None
        self._near: dict[str, Pool] = {}  # of single nodes of a cluster
        self._in_use: set[Connection] = set()
        self._users = 0
        self._waiting = 0  # for the share of reads, or of writes
        self._kept: dict[KeptConnection, Callable[[], str | None]] = {}  # and the node that each is to
        self._kept_deadlines = Deadlines(settings.database_timeout)
        self._turns = asyncio.Semaphore(max(1, settings.pool_size // TURNS_OF))
        self._reads = asyncio.Semaphore(max(1, settings.pool_size * SHARE_OF_THREE // 3))
        self._writes = asyncio.Semaphore(max(1, settings.pool_size * SHARE_OF_THREE // 3))

    async def open(self) -> None:
        """Make the pool. It connects at first use, so the service can start before the database."""
        self._pool = await self._create_pool()
        self._hosts.watch(_options(self._settings))

    async def _create_pool(self, near: str | None = None) -> Pool:
        return await asyncpg.create_pool(
            connect=partial(self._connect, near=near),
            min_size=0,
            max_size=self._settings.pool_size,
            max_inactive_connection_lifetime=IDLE_SECONDS,
            command_timeout=max(self._settings.database_timeout, self._settings.read_timeout),
            reset=_leave_as_is,
            **_options(self._settings),
        )

    async def _pool_near(self, near: str | None) -> Pool:
        if self._pool is None:
            raise RuntimeError("Call open() first.")
        if near is None or not self._hosts.names(near):
            return self._pool
        if near not in self._near:
            pool = await self._create_pool(near)  # which does not wait: it opens no connection yet
            self._near.setdefault(near, pool)
        return self._near[near]

    @property
    def _pools(self) -> list[Pool]:
        return [pool for pool in (self._pool, *self._near.values()) if pool is not None]

    def _apart(self, near: str | None) -> str | None:
        """The node, if what breaks connections to it says nothing about others; None if it may have broken all."""
        return near if near is not None and self._hosts.is_apart(near) else None

    async def close(self) -> None:
        """Close the connections. If the database does not answer, they are dropped."""
        await self._hosts.close()
        for kept in self._kept:
            await kept.close()
        self._kept_deadlines.close()
        for pool in self._pools:
            with suppress(DatabaseUnavailableError), unavailable_if_away():
                async with asyncio.timeout(PARTING_SECONDS):
                    await pool.close()

    async def _connect(self, *_: object, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """Connect. Every refusal of a server counts as an outage: it says nothing about the request that is waiting.

        A standby that is behind, for example, does not know a new database yet. Raises DatabaseUnavailableError.
        """
        try:
            return await self._hosts.connect(**options)
        except asyncpg.PostgresError as error:
            raise DatabaseUnavailableError(str(error)) from error

    def connection(self) -> AbstractAsyncContextManager["Connection"]:
        """Lend a connection for the length of the block, for something short that waits for no standby: an API key.

        The block is cancelled after `database_timeout` and ends at most PARTING_SECONDS later, whether or not the
        database answers. Raises DatabaseUnavailableError.
        """
        return self._connection(self._now() + self._settings.database_timeout)

    def write_connection(self, near: str | None = None) -> AbstractAsyncContextManager["Connection"]:
        """As `connection`, for a write. Writes never take the whole pool: reads go on while they wait for a standby.

        `near` is the node of a cluster to connect to, as `host:port`, if it is one of several hosts in DATABASE_URL.
        """
        return self._share(self._writes, self._settings.database_timeout, near)

    def read_connection(
        self, *, is_large: bool = False, near: str | None = None
    ) -> AbstractAsyncContextManager["Connection"]:
        """As `connection`, for a read. Reads never take the whole pool, so writes do not wait for them.

        A large read takes longer the more it reads. It is cancelled after `read_timeout`. `near` is as for
        `write_connection`.
        """
        seconds = self._settings.read_timeout if is_large else self._settings.database_timeout
        return self._share(self._reads, seconds, near)

    @asynccontextmanager
    async def _share(
        self, share: asyncio.Semaphore, seconds: float, near: str | None = None
    ) -> AsyncIterator["Connection"]:
        """Lend a connection out of a share of the pool, for so many seconds, the wait for it included."""
        cut_off = self._now() + seconds
        self._waiting += 1
        try:
            with unavailable_if_away():
                async with asyncio.timeout_at(cut_off):
                    await share.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._connection(cut_off, near) as connection:
                yield connection
        finally:
            share.release()

    @asynccontextmanager
    async def _connection(self, cut_off: float, near: str | None = None) -> AsyncIterator["Connection"]:
        pool = await self._pool_near(near)
        self._users += 1
        try:
            with unavailable_if_away():
                async with asyncio.timeout_at(cut_off), _lent(pool, cut_off) as connection:
                    self._in_use.add(connection)
                    try:
                        yield connection
                    finally:
                        self._in_use.discard(connection)
        except DatabaseUnavailableError as error:
            if not is_of_statement(error.__cause__):
                self._distrust(self._apart(near))
            if is_read_only(error):  # Every connection of the pool leads to the same standby.
                await pool.expire_connections()
            raise
        finally:
            self._users -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[tuple["Connection", float]]:
        """Lend a connection for one part of an export, in a read-only transaction.

        Yields the connection and the time, on the loop's clock, at which to give it back. All exports together hold
        at most one connection in TURNS_OF. Raises DatabaseUnavailableError.
        """
        async with self._turns:
            end = self._now() + self._settings.database_timeout / 2  # This includes the wait for a connection.
            async with self.read_connection() as connection, connection.transaction(readonly=True):
                yield connection, end

    def kept_connection(self, near: Callable[[], str | None] = lambda: None) -> KeptConnection:
        """A connection of its own for one caller that makes one call after the other.

        `near` tells, for each new one, which node of a cluster to connect to, as for `write_connection`.
        """

        async def connect() -> "asyncpg.Connection[asyncpg.Record]":
            return await self._connect(near=near(), **_options(self._settings))

        async def lost() -> None:
            node = self._apart(near())
            for pool in self._pools if node is None else [await self._pool_near(node)]:
                await pool.expire_connections()

        kept = KeptConnection(connect, self._kept_deadlines, lost)
        self._kept[kept] = near
        return kept

    def _distrust(self, node: str | None) -> None:
        """Replace the dedicated connections to a node, or to all that are not apart, before they are used again."""
        for kept, near in self._kept.items():
            if self._apart(near()) == node:
                kept.distrust()

    async def _abandon(self) -> None:
        """Drop all connections at once, with the statements on them: they lead to an older primary."""
        for pool in self._pools:
            await pool.expire_connections()
        for connection in list(self._in_use):
            connection.terminate()
        for kept in self._kept:
            kept.terminate()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def use(self) -> PoolUse:
        """How the connections are used now."""
        if self._pool is None:
            raise RuntimeError("Call open() first.")
        idle = self._pool.get_idle_size()
        busy = self._pool.get_size() - idle
        return PoolUse(busy, idle, max(0, self._users - busy) + self._waiting, self._settings.pool_size)


@asynccontextmanager
async def _lent(pool: Pool, cut_off: float) -> AsyncIterator["Connection"]:
    """Lend a connection of the pool. It is returned even if the database never confirms a cancelled statement."""
    connection = await pool.acquire()
    end = asyncio.get_running_loop().call_at(cut_off + PARTING_SECONDS, connection.terminate)
    try:
        with waits_for_standbys(connection):
            yield connection
    except asyncio.CancelledError:
        if asyncio.get_running_loop().time() >= cut_off:  # The idle connections may have gone silent too.
            await pool.expire_connections()
        raise
    finally:
        try:
            await _release(pool, connection)
        finally:
            end.cancel()


async def _release(pool: Pool, connection: "Connection") -> None:
    """Give a connection back, within PARTING_SECONDS.

    If the caller is cancelled meanwhile, the release goes on. Its error is then of no interest to anyone, and asyncio
    must not log it as one that nobody retrieved.
    """
    release = asyncio.create_task(pool.release(connection, timeout=PARTING_SECONDS))  # type: ignore[arg-type]  # one of the pool
    release.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(release)


async def _leave_as_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Skip the round trip that would reset the session: nothing here changes its state."""
