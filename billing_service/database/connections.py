"""Connections to PostgreSQL, as the pool makes them."""

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection  # generic in its stubs alone

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


class PooledConnection(_Connection):
    """A connection that is closed as well where the database does not say so."""

    __slots__ = ()

    async def close(self, *, timeout: float | None = None) -> None:
        with suppress(TimeoutError):
            await super().close(timeout=timeout)
