"""The one thread that touches a spool's file, so that no fsync holds up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from billing_client.spooling.outbox import Outbox
from billing_client.spooling.spool import SpoolStatus

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SpoolThread:
    """Runs what is asked of its outbox, one after the other. A call that is cancelled is done all the same."""

    outbox: Outbox

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="billing-spool")

    async def open(self, path: Path | None, batch_size: int) -> SpoolStatus:
        """Open the outbox; gives what it holds. Raises SpoolError."""
        try:
            return await self.call(self._open, path, batch_size)
        except BaseException:
            self._executor.submit(self._close)
            self._executor.shutdown(wait=False)
            raise

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What the function returns. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def close(self) -> None:
        """Close the outbox, after all that was asked of it."""
        try:
            await asyncio.shield(self.call(self._close))
        finally:
            self._executor.shutdown(wait=False)

    def _open(self, path: Path | None, batch_size: int) -> SpoolStatus:
        self.outbox = Outbox(path, batch_size)
        return self.outbox.status()

    def _close(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
