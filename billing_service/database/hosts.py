"""The servers that DATABASE_URL names: the newest primary is used, and never an older one again.

Of a primary and its standbys, one becomes the primary when another is lost, and the lost one may come back. Both then
take writes, and only the timeline tells which is the right one: each promotion makes it higher.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg

from billing_service.database.connections import PooledConnection
from billing_service.database.faults import FAULTS, NoPrimaryError, as_unavailable
from billing_service.database.replication import ServerState, read_server_state
from billing_service.database_url import Host, parse_database_url
from billing_service.settings import Settings

_log = logging.getLogger(__name__)
HOST_TIMEOUTS = 4  # a silent host may take this part of the time of a call, so that the others get their turn in it
WATCH_SECONDS = 1.0


class _Server(NamedTuple):
    """A host that answered."""

    host: Host
    connection: PooledConnection
    state: ServerState


class Hosts:
    """Connects to the newest primary. Remembers which one that was, so that an older one is never used again.

    Args:
        settings: They name the servers.
        abandon: Called once a newer primary is known than the connections made so far lead to.
    """

    def __init__(self, settings: Settings, abandon: Callable[[], Awaitable[None]] | None = None) -> None:
        self._url = parse_database_url(settings.database_url or "postgresql://")
        several = len(self._url.hosts) > 1
        share = settings.database_timeout / (HOST_TIMEOUTS if several else 1)
        self._timeout = min(self._url.connect_timeout or share, settings.database_timeout)
        self._abandon = abandon
        self._current: Host | None = None
        self._timelines: dict[int, int] = {}  # the highest seen of each system
        self._watches: list[asyncio.Task[None]] = []

    async def connect(self, *_: object, near: str | None = None, **options: Any) -> PooledConnection:
        """Connect to the newest primary, or to what `target_session_attrs` asks for.

        All hosts are asked at once. Once a primary is known the answers of the others are not awaited.

        Args:
            near: The node of a cluster to connect to, as `host:port`, if it is one of several hosts.
            options: Those of `asyncpg.connect` but for the address and the time-out.

        Raises NoPrimaryError if servers answer and none of them is a primary that may be used, and what asyncpg
        raises where none answers.
        """
        if not self._url.wants_primary:
            return await self._open(self._url.url, target_session_attrs=self._url.target, **options)
        if near is not None and self.names(near):
            return await self._connect_near(near, options)
        asked = {asyncio.create_task(self._ask(host, options)): host for host in self._url.hosts}
        chosen = None
        try:
            chosen = await self._choose(asked)
            await self._use(chosen.host, chosen.state)
            return chosen.connection
        finally:
            await _leave(asked, chosen)

    def names(self, address: str) -> bool:
        """Whether there are several hosts, and one of them listens at `host:port`."""
        return len(self._url.hosts) > 1 and any(host.listens_at(address) for host in self._url.hosts)

    def is_apart(self, address: str) -> bool:
        """Whether the host that listens there is one of several, and not the one that is connected to else."""
        return self.names(address) and not (self._current is not None and self._current.listens_at(address))

    async def _connect_near(self, near: str, options: dict[str, Any]) -> PooledConnection:
        """Connect to the one host that listens there: what it holds is nowhere else."""
        host = next(host for host in self._url.hosts if host.listens_at(near))
        server = await self._ask(host, options)
        if self._newest([server]) is None:
            server.connection.terminate()
            raise NoPrimaryError(f"{host.name}: {_reason(None)}")
        self._note(server.state)
        return server.connection

    def _note(self, state: ServerState) -> None:
        self._timelines[state.system] = max(self._timelines.get(state.system, 0), state.timeline or 0)

    def watch(self, options: dict[str, Any]) -> None:
        """Look out for a newer primary until `close`. Needs a running loop."""
        if len(self._url.hosts) > 1 and self._url.wants_primary:
            self._watches = [asyncio.create_task(self._watch(host, options)) for host in self._url.hosts]

    async def close(self) -> None:
        """Stop looking out."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _open(self, url: str, **options: Any) -> PooledConnection:
        connection: PooledConnection = await asyncpg.connect(url, timeout=self._timeout, **options)
        connection.set_socket_options(self._url.socket_options)
        return connection

    async def _ask(self, host: Host, options: dict[str, Any]) -> _Server:
        async with asyncio.timeout(self._timeout):
            connection = await self._open(host.url, **options)
            try:
                return _Server(host, connection, await read_server_state(connection))
            except BaseException:
                connection.terminate()
                raise

    async def _choose(self, asked: dict["asyncio.Task[_Server]", Host]) -> _Server:
        pending = set(asked)
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            newest = self._newest(_answered(asked))
            if newest is not None and self._current is not None and self._is_sure(newest):
                return newest
        newest = self._newest(_answered(asked))
        if newest is None:
            raise self._fault(asked)
        return newest

    def _is_sure(self, server: _Server) -> bool:
        """Whether the hosts that did not answer yet make no difference."""
        return server.host is self._current or self._is_newer(server.state)

    def _is_newer(self, state: ServerState) -> bool:
        """Whether a server of a system that was used or seen before is a newer primary of it.

        The nodes of a cluster of Citus are systems of their own: none of them is newer than another.
        """
        known = self._timelines.get(state.system)
        return state.timeline is not None and known is not None and state.timeline > known

    def _newest(self, servers: Iterable[_Server]) -> _Server | None:
        """The newest primary. Of several that are the same age, the one in use, else the first."""
        newest = dict(self._timelines)
        primaries = [server for server in servers if server.state.timeline is not None]
        for server in primaries:
            newest[server.state.system] = max(newest.get(server.state.system, 0), server.state.timeline or 0)
        good = [server for server in primaries if server.state.timeline == newest[server.state.system]]
        return next((server for server in good if server.host is self._current), good[0] if good else None)

    async def _use(self, host: Host, state: ServerState) -> None:
        is_newer = self._is_newer(state) and self._current is not None
        if self._current is not None and (is_newer or host is not self._current):
            _log.warning("the primary is now %s, timeline %s", host.name, state.timeline)
        self._current = host
        self._note(state)
        if is_newer and self._abandon is not None:
            await self._abandon()

    def _fault(self, asked: dict["asyncio.Task[_Server]", Host]) -> Exception:
        """What to raise where there is no primary: what the operator has to mend, or how each host is."""
        faults = {host: task.exception() for task, host in asked.items()}
        errors = [error for error in faults.values() if isinstance(error, Exception)]
        if len(errors) == len(asked) == 1:
            return errors[0]
        for error in errors:
            if not isinstance(error, FAULTS) or as_unavailable(error) is None:
                return error
        reasons = [f"{host.name}: {_reason(error)}" for host, error in faults.items()]
        return NoPrimaryError(f"no primary that may be used ({'; '.join(reasons)})")

    async def _watch(self, host: Host, options: dict[str, Any]) -> None:
        """Ask a host that is not in use, again and again, whether it has become the newest primary."""
        server: _Server | None = None
        try:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                try:
                    server = await self._look(server, host, options)
                except FAULTS:
                    _dismiss(server)
                    server = None
        finally:
            _dismiss(server)

    async def _look(self, server: _Server | None, host: Host, options: dict[str, Any]) -> _Server | None:
        if self._current is None or self._current is host:
            _dismiss(server)
            return None
        if server is None:
            server = await self._ask(host, options)
        else:
            async with asyncio.timeout(self._timeout):
                server = server._replace(state=await read_server_state(server.connection))
        if self._is_newer(server.state):
            await self._use(host, server.state)
        return server


def _answered(asked: Iterable["asyncio.Task[_Server]"]) -> list[_Server]:
    return [task.result() for task in asked if task.done() and not task.cancelled() and task.exception() is None]


async def _leave(asked: Iterable["asyncio.Task[_Server]"], chosen: _Server | None) -> None:
    """Give up all hosts but the chosen one."""
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for server in _answered(asked):
        if server is not chosen:
            server.connection.terminate()


def _dismiss(server: _Server | None) -> None:
    if server is not None:
        with suppress(*FAULTS):
            server.connection.terminate()


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "a standby, or an older primary than was used before"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).partition("\n")[0] or "no answer in time"
