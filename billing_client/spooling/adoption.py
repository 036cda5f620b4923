"""Delivers the spools that dead processes left in a folder."""

import asyncio
import logging
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from billing_client._errors import SpoolError, SpoolInUseError
from billing_client._transport import Transport
from billing_client.spooling.capacity import Capacity
from billing_client.spooling.dead_letters import DeliveryOutcome
from billing_client.spooling.delivery import Delivery
from billing_client.spooling.intake import finish
from billing_client.spooling.options import RecorderOptions
from billing_client.spooling.outbox import Outbox
from billing_client.spooling.spool_file import SpoolFile
from billing_client.spooling.spool_folder import locks_left_in, own_spools_in

MOST_ADOPTED = 16  # at a time

_logger = logging.getLogger(__name__)


class Adopter:
    """Looks for spools whose process is dead, and delivers each until it is empty; then it removes the file.

    While it delivers one it holds its lock, so no other process delivers it. A spool with dead letters, or with what
    `keep_delivered` keeps, stays; it is looked at again once it was changed, and once an hour. `own` is the spool of
    this process, in the same folder.
    """

    def __init__(self, transport: Transport, own: Path, options: RecorderOptions) -> None:
        self.done: Counter[DeliveryOutcome] = Counter()
        self._transport = transport
        self._own = own
        self._options = options
        self._adopted: dict[Path, asyncio.Task[None]] = {}
        self._seen: dict[Path, tuple[float, ...]] = {}
        self.deliveries: list[Delivery] = []

    async def run(self) -> None:
        """Adopt until cancelled; what is delivered then stays for others."""
        try:
            while True:
                try:
                    await self._look()
                except OSError as error:
                    _logger.warning("cannot look for spools of dead processes: %s", error)
                seconds = self._options.look_seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
                await asyncio.sleep(seconds)
        finally:
            adopted = list(self._adopted.values())
            for task in adopted:
                task.cancel()
            if adopted:
                await asyncio.wait(adopted)

    async def _look(self) -> None:
        paths = await asyncio.to_thread(self._found)
        self._seen = {path: state for path, state in self._seen.items() if path in paths}
        for path in paths:
            is_known = path == self._own or path in self._adopted or self._seen.get(path) == _state(path)
            if not is_known and len(self._adopted) < MOST_ADOPTED:
                self._adopted[path] = asyncio.create_task(self._adopt(path))

    def _found(self) -> list[Path]:
        folder = self._own.parent
        return [*own_spools_in(folder), *locks_left_in(folder)]

    async def _adopt(self, path: Path) -> None:
        outbox = Outbox(lambda: SpoolFile(path, create=False, read_only=False), self._options)
        opening = asyncio.create_task(outbox.open())
        try:
            try:
                held = await finish(opening)
                await self._deliver(path, outbox, held.pending)
            finally:
                if opening.exception() is None:
                    await outbox.close(remove_if_empty=True)
                    self._seen[path] = _state(path)
        except SpoolInUseError:
            pass  # its process lives, or another has adopted it
        except SpoolError as error:
            if _state(path):  # else another process has delivered and removed it
                _logger.error("a spool that a dead process left cannot be delivered: %s", error)  # noqa: TRY400 - an operator needs no traceback
                self._seen[path] = _state(path)
        finally:
            del self._adopted[path]

    async def _deliver(self, path: Path, outbox: Outbox, records: int) -> None:
        if not records:
            return
        _logger.info("delivering %s, which a dead process left with %d records", path, records)
        delivery = Delivery(self._transport, outbox, Capacity.unbounded(), self._options)
        delivery.to_settle = records
        self.deliveries.append(delivery)
        running = asyncio.create_task(delivery.run())
        try:
            await delivery.wait_until_settled(records)
        finally:
            running.cancel()
            await asyncio.wait([running])
            self.deliveries.remove(delivery)
            self.done += delivery.settled


def _state(path: Path) -> tuple[float, ...]:
    """When a spool was last changed, and the hour; empty if it is not there."""
    times: list[float] = []
    for each in (path, path.with_name(f"{path.name}-wal")):
        with suppress(OSError):
            times.append(each.stat().st_mtime)
    return (*times, time.time() // 3600) if times else ()
