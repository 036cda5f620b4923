"""Connections by way of PgBouncer in transaction mode, which may give each transaction to another server connection."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from billing_service.database.connections import PooledConnection


class PgBouncerConnection(PooledConnection):
    """Runs each statement with parameters in a transaction, since it takes two messages: one that prepares it, one that
    runs it, on the server connection that has it prepared. Needs `statement_cache_size=0`, so that none is expected to
    be prepared beyond its transaction."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if not args:  # one message
            return await super().execute(query, **options)
        async with self._whole():
            return await super().execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._whole():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._whole():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._whole():
            return await super().fetchval(query, *args, **options)

    def _whole(self) -> AbstractAsyncContextManager[object]:
        return nullcontext() if self.is_in_transaction() else self.transaction()
