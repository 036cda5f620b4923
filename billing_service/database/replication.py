"""Primary and standbys: which of them a server is, and commits that wait for a standby."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg
from msgspec import Struct

from billing_service.database.connections import Connection
from billing_service.database.faults import DatabaseUnavailableError
from billing_service.database.queries import load_queries

_QUERIES = load_queries("replication")
_WAIT = "SyncRepWaitForLSN"  # the function of PostgreSQL that waits; the text of its warning is translated


class ServerState(Struct, frozen=True):
    """What a server is at this moment.

    Attributes:
        is_standby: Whether it is in recovery.
        is_read_only: Whether it refuses writes: a standby does, and a primary that was told to.
        timeline: Its timeline; None on a standby.
        system: What is the same on all servers that replicate each other; 0 where the role may not ask.
    """

    is_standby: bool
    is_read_only: bool
    timeline: int | None
    system: int


async def read_server_state(connection: Connection) -> ServerState:
    """Ask a server what it is. Raises what asyncpg raises."""
    row = await connection.fetchrow(_QUERIES["server_state"])
    if row is None:
        raise RuntimeError("a query of one row gave none")
    try:
        system = await connection.fetchval(_QUERIES["system_identifier"])
    except asyncpg.InsufficientPrivilegeError:
        system = 0
    return ServerState(row["is_standby"], row["is_read_only"], _timeline(row), system)


def _timeline(row: asyncpg.Record) -> int | None:
    return None if row["timeline"] is None else int(row["timeline"], 16)


async def takes_no_writes(connection: Connection) -> bool:
    """Whether the server is a standby, or a primary that is read-only. Raises what asyncpg raises."""
    answer: bool = await connection.fetchval(_QUERIES["takes_no_writes"])
    return answer


class Durability(Struct, frozen=True):
    """What the database does with a commit before it says so.

    Attributes:
        fsync: Whether it is on the disk of the primary.
        synchronous_commit: What else it waits for: off, local, remote_write, on or remote_apply.
        timeline: The timeline of the primary; None where the server is a standby.
        required: How many standbys `synchronous_standby_names` asks for.
        attached: How many standbys that count for it are there; None where the role may not see them.
    """

    fsync: bool
    synchronous_commit: str
    timeline: int | None
    required: int
    attached: int | None

    @property
    def waits_for(self) -> int:
        """How many standbys a commit waits for."""
        return 0 if self.synchronous_commit in ("off", "local") else self.required

    @property
    def faults(self) -> list[str]:
        """What lets acknowledged usage be lost, each with what to do."""
        faults = []
        if not self.fsync:
            faults.append("fsync is off: a crash of its machine loses what was acknowledged, or all. Set fsync = on.")
        if self.synchronous_commit == "off":
            faults.append(
                "synchronous_commit is off: a crash loses what was acknowledged last. Set synchronous_commit = on."
            )
        if self.synchronous_commit == "local" and self.required:
            faults.append(
                "synchronous_commit is local: no commit waits for the standbys that synchronous_standby_names names. "
                "Set synchronous_commit = on."
            )
        return faults

    def __str__(self) -> str:
        standbys = "an unknown number" if self.attached is None else self.attached
        return (
            f"timeline {self.timeline}, synchronous_commit {self.synchronous_commit}, "
            f"{standbys} of {self.required} synchronous standbys"
        )


async def read_durability(connection: Connection) -> Durability:
    """Ask a server what a commit waits for. Raises what asyncpg raises."""
    row = await connection.fetchrow(_QUERIES["durability"])
    if row is None:
        raise RuntimeError("a query of one row gave none")
    return Durability(row["fsync"], row["synchronous_commit"], _timeline(row), row["required"], row["attached"])


async def wait_for_standbys(connection: Connection) -> None:
    """Return once all that this connection has seen is as durable as `synchronous_commit` says.

    Needed before an answer that says "it is stored already" where nothing was written: what is visible need not be on a
    standby yet, if its own wait was cancelled or the primary restarted. Raises what asyncpg raises.
    """
    await connection.execute(_QUERIES["wait_for_standbys"])


async def commit_without_waiting(connection: Connection) -> None:
    """Let the commit of this transaction wait for neither disk nor standbys, for what may be lost. Raises what asyncpg
    raises."""
    await connection.execute(_QUERIES["commit_without_waiting"])


async def beat(connection: Connection) -> None:
    """Commit something that says nothing, so that a standby that is not behind has just applied a commit. Waits for
    nothing. Raises what asyncpg raises."""
    async with connection.transaction():
        await commit_without_waiting(connection)
        await wait_for_standbys(connection)


async def read_lag(connection: Connection) -> float | None:
    """How many seconds ago the latest transaction was committed that this server has applied: 0 on a primary, None on a
    standby that has applied none yet. While nothing is committed it grows, so it is an upper bound. Raises what asyncpg
    raises."""
    lag: float | None = await connection.fetchval(_QUERIES["replica_lag"])
    return lag


class StandbyWait:
    """Notes whether PostgreSQL stopped waiting for a standby: what was committed then is stored on the primary alone.

    PostgreSQL says so in a warning and reports success, after `pg_cancel_backend` for instance.
    """

    def __init__(self) -> None:
        self._warning: str | None = None

    def watch(self, connection: Connection) -> None:
        """Take note of what the server says on a connection."""
        connection.add_log_listener(self._note)

    def forget(self, connection: Connection) -> None:
        """Leave a connection as it was."""
        with suppress(asyncpg.InterfaceError):  # the connection was lost
            connection.remove_log_listener(self._note)

    def _note(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        if message.server_source_function == _WAIT:
            self._warning = message.message

    def require_done(self) -> None:
        """Raise DatabaseUnavailableError if a wait was cancelled."""
        warning, self._warning = self._warning, None
        if warning is not None:
            raise DatabaseUnavailableError(warning)


@contextmanager
def waits_for_standbys(connection: Connection) -> Iterator[None]:
    """Raise DatabaseUnavailableError at the end of the block if a wait was cancelled in it, however the block ends."""
    wait = StandbyWait()
    wait.watch(connection)
    try:
        yield
    except Exception:
        wait.require_done()
        raise
    else:
        wait.require_done()
    finally:
        wait.forget(connection)
