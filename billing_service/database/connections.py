"""The connections to PostgreSQL that the pool uses."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection  # only the stubs make it generic

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


class PooledConnection(_Connection):
    """A connection whose `close` does not fail if the database does not answer in time."""

    __slots__ = ()

    def set_socket_options(self, options: Iterable[tuple[int, int, int]]) -> None:
        """Set options of the TCP socket, each a level, an option and a value."""
        connected: socket.socket = self._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # asyncpg has no option for them
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            for option in options:
                connected.setsockopt(*option)

    async def close(self, *, timeout: float | None = None) -> None:
        with suppress(TimeoutError):
            await super().close(timeout=timeout)
