"""The pool of connections, and one beside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import asyncpg

from billing_client.contract.deadlines import Deadlines, Limit
from billing_service.database.connections import Connection, PooledConnection
from billing_service.database.faults import (
    FAULTS,
    DatabaseUnavailableError,
    as_unavailable,
    is_read_only,
    unavailable_if_away,
)
from billing_service.database.hosts import Hosts
from billing_service.database.pgbouncer import PgBouncerConnection
from billing_service.database.replication import StandbyWait, waits_for_standbys
from billing_service.settings import Settings

__all__ = [
    "Connection",
    "Database",
    "DatabaseUnavailableError",
    "PoolUse",
    "as_unavailable",
    "connected",
    "unavailable_if_away",
]
T = TypeVar("T")
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

IDLE_SECONDS = 300.0  # then a connection is replaced, since what lies between may have forgotten it
TURNS_OF = 4  # one connection of so many may be held by an export
READS_OF_THREE = 2  # of three connections so many may be held by reads; the rest are for writes and API keys
PARTING_SECONDS = 1.0  # for the database to take note that a statement is given up, or a connection


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of one's own, for a command.

    Raises what asyncpg raises, and DatabaseUnavailableError where something was committed on the primary alone.
    """
    connection = await Hosts(settings).connect(**_options(settings))
    try:
        with waits_for_standbys(connection):
            yield connection
    finally:
        await connection.close()


def _options(settings: Settings) -> dict[str, Any]:
    name = {"application_name": "billing-service"}
    if settings.pgbouncer:  # it takes no settings that it does not know
        return {"connection_class": PgBouncerConnection, "server_settings": name, "statement_cache_size": 0}
    warnings = {"client_min_messages": "warning"}  # a cancelled wait for a standby is told in one
    return {"connection_class": PooledConnection, "server_settings": name | warnings}


class PoolUse(NamedTuple):
    """How many connections are in use, open and idle, waited for, and allowed."""

    busy: int
    idle: int
    waiting: int
    capacity: int


class Database:
    """Connections that are opened when first needed and replaced when lost: a pool, and one beside it that is kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hosts = Hosts(settings, self._abandon)
        self._pool: Pool | None = None
        self._in_use: set[Connection] = set()
        self._users = 0
        self._kept: asyncpg.Connection[asyncpg.Record] | None = None
        self._kept_until = 0.0
        self._kept_wait = StandbyWait()
        self._kept_deadlines = Deadlines(settings.database_timeout)
        self._turns = asyncio.Semaphore(max(1, settings.pool_size // TURNS_OF))
        self._reads = asyncio.Semaphore(max(1, settings.pool_size * READS_OF_THREE // 3))

    async def open(self) -> None:
        """Make the pool. It connects at first use, so the service starts while the database is away."""
        self._pool = await asyncpg.create_pool(
            connect=self._hosts.connect,
            min_size=0,
            max_size=self._settings.pool_size,
            max_inactive_connection_lifetime=IDLE_SECONDS,
            command_timeout=max(self._settings.database_timeout, self._settings.read_timeout),
            reset=_leave_as_is,
            **_options(self._settings),
        )
        self._hosts.watch(_options(self._settings))

    async def close(self) -> None:
        """Close the connections, in order where the database takes part, else without it."""
        await self._hosts.close()
        await self._part()
        self._kept_deadlines.close()
        if self._pool is not None:
            with suppress(DatabaseUnavailableError), unavailable_if_away():
                async with asyncio.timeout(PARTING_SECONDS):
                    await self._pool.close()

    def connection(self) -> AbstractAsyncContextManager["Connection"]:
        """A connection of one's own for a write or an API key, for the block.

        The block is cut off after `database_timeout` and ends within PARTING_SECONDS more, whether or not the database
        answers. Raises DatabaseUnavailableError.
        """
        return self._connection(self._now() + self._settings.database_timeout)

    @asynccontextmanager
    async def read_connection(self, *, is_large: bool = False) -> AsyncIterator["Connection"]:
        """As `connection`, for a read. All reads together leave some connections to writes, so these never wait for
        them. A large read, whose time grows with what it reads, is cut off after `read_timeout`."""
        seconds = self._settings.read_timeout if is_large else self._settings.database_timeout
        cut_off = self._now() + seconds
        with unavailable_if_away():
            async with asyncio.timeout_at(cut_off):
                await self._reads.acquire()
        try:
            async with self._connection(cut_off) as connection:
                yield connection
        finally:
            self._reads.release()

    @asynccontextmanager
    async def _connection(self, cut_off: float) -> AsyncIterator["Connection"]:
        if self._pool is None:
            raise RuntimeError("open() comes first")
        self._users += 1
        try:
            with unavailable_if_away():
                async with asyncio.timeout_at(cut_off), _lent(self._pool, cut_off) as connection:
                    self._in_use.add(connection)
                    try:
                        yield connection
                    finally:
                        self._in_use.discard(connection)
        except DatabaseUnavailableError as error:
            self._kept_until = 0.0  # what befell one connection may have befallen all
            if is_read_only(error):  # no other connection leads elsewhere
                await self._pool.expire_connections()
            raise
        finally:
            self._users -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[tuple["Connection", float]]:
        """A connection for a part of an export, in a transaction, and when to give it back, on the loop's clock: well
        before it is cut off. All exports together hold one connection in TURNS_OF.

        Raises DatabaseUnavailableError.
        """
        async with self._turns:
            end = self._now() + self._settings.database_timeout / 2  # the wait for one counts too
            async with self.read_connection() as connection, connection.transaction(readonly=True):
                yield connection, end

    async def on_kept_connection(self, work: Callable[["Connection"], Awaitable[T]]) -> T:
        """Do some work on the connection beside the pool, for one user who waits for one work to end before the next.

        To take a connection from the pool and give it back costs more CPU time than a small statement does, and a
        timer of its own 2 µs more than one for all. Raises DatabaseUnavailableError.
        """
        try:
            with Limit(self._kept_deadlines):
                done = await work(await self._keep())
                self._kept_wait.require_done()
                return done
        except FAULTS as error:
            unavailable = as_unavailable(error)
            if unavailable is None:
                raise
            await self._part()
            if self._pool is not None:
                await self._pool.expire_connections()
            raise unavailable from error

    async def _keep(self) -> "asyncpg.Connection[asyncpg.Record]":
        now = asyncio.get_running_loop().time()
        if self._kept is not None and now > self._kept_until:
            self._kept.terminate()
        self._kept_until = now + IDLE_SECONDS
        if self._kept is None or self._kept.is_closed():
            self._kept = await self._hosts.connect(**_options(self._settings))
            self._kept_wait = StandbyWait()  # the last one's connection may yet say that its wait was given up
            self._kept_wait.watch(self._kept)
        return self._kept

    async def _abandon(self) -> None:
        """Give up all connections at once, and what is under way on them: they lead to an older primary."""
        if self._pool is not None:
            await self._pool.expire_connections()
        for connection in list(self._in_use):
            connection.terminate()
        if self._kept is not None:
            self._kept.terminate()

    async def _part(self) -> None:
        """Give the kept connection up, once the database took note of what it was told last."""
        kept, self._kept = self._kept, None
        if kept is not None:
            with suppress(DatabaseUnavailableError), unavailable_if_away():
                await kept.close(timeout=PARTING_SECONDS)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def use(self) -> PoolUse:
        """How the connections are used at this moment."""
        if self._pool is None:
            raise RuntimeError("open() comes first")
        idle = self._pool.get_idle_size()
        busy = self._pool.get_size() - idle
        return PoolUse(busy, idle, max(0, self._users - busy), self._settings.pool_size)


@asynccontextmanager
async def _lent(pool: Pool, cut_off: float) -> AsyncIterator["Connection"]:
    """A connection of the pool, given back even where the database never says that it gave up a statement."""
    connection = await pool.acquire()
    end = asyncio.get_running_loop().call_at(cut_off + PARTING_SECONDS, connection.terminate)
    try:
        with waits_for_standbys(connection):
            yield connection
    except asyncio.CancelledError:
        if asyncio.get_running_loop().time() >= cut_off:  # where one fell silent, the idle ones may have too
            await pool.expire_connections()
        raise
    finally:
        try:
            await pool.release(connection, timeout=PARTING_SECONDS)
        finally:
            end.cancel()


async def _leave_as_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Spare the round trip that would reset a session: nothing here ever changes one."""
