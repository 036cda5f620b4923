"""Commits and the standbys that `synchronous_commit` makes them wait for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg

from billing_service.database.connections import Connection
from billing_service.database.faults import DatabaseUnavailableError
from billing_service.database.queries import load_queries

_QUERIES = load_queries("replication")
_WAIT = "SyncRepWaitForLSN"  # the function of PostgreSQL that waits; the text of its warning is translated


async def wait_for_standbys(connection: Connection) -> None:
    """Return once all that this connection has seen is as durable as `synchronous_commit` says.

    Needed before an answer that says "it is stored already" where nothing was written: what is visible need not be on a
    standby yet, if its own wait was cancelled or the primary restarted. Raises what asyncpg raises.
    """
    await connection.execute(_QUERIES["wait_for_standbys"])


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
