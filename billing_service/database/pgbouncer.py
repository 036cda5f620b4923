"""Connections through PgBouncer in transaction mode, which may run each transaction on another server connection."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from billing_service.database.connections import PooledConnection


class PgBouncerConnection(PooledConnection):
    """Runs each statement with parameters in a transaction.

    Such a statement takes two messages, to prepare it and to run it, which must reach the same server connection. Needs
    `statement_cache_size=0`: a statement is not prepared any more after its transaction.
    """

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if not args:  # a statement without parameters takes one message
            return await super().execute(query, **options)
        async with self._in_transaction():
            return await super().execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._in_transaction():
            return await super().fetchval(query, *args, **options)

    def _in_transaction(self) -> AbstractAsyncContextManager[object]:
        return nullcontext() if self.is_in_transaction() else self.transaction()
