"""The one place where PostgreSQL's faults become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

FAULTS = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)
READ_ONLY = "25006"  # a standby, or a primary that takes no writes
# SQLSTATE classes that say "not now": connection, transaction rollback, resources, object state, operator, system
_UNAVAILABLE = ("08", "40", "53", "55", "57", "58")
# what a worker node that goes away looks like through Citus
_CITUS_UNAVAILABLE = ("connection marked as essential", "unexpected postmaster exit")


class DatabaseUnavailableError(Exception):
    """The database is away or overloaded: nothing was written, or it is unknown whether it was."""


class NoPrimaryError(DatabaseUnavailableError):
    """Servers answer, but none is a primary that may be used."""


@contextmanager
def unavailable_if_away() -> Iterator[None]:
    """Turn every fault that a later try may not meet into DatabaseUnavailableError; let bugs through."""
    try:
        yield
    except FAULTS as error:
        unavailable = as_unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from error


def as_unavailable(error: Exception) -> DatabaseUnavailableError | None:
    """The error to raise for a fault that a later try may not meet; None for a bug."""
    if isinstance(error, asyncpg.PostgresError) and not _says_not_now(error):
        return None
    return DatabaseUnavailableError(str(error) or type(error).__name__)


def is_read_only(error: DatabaseUnavailableError) -> bool:
    """Whether a write met a server that takes none."""
    return isinstance(error.__cause__, asyncpg.PostgresError) and error.__cause__.sqlstate == READ_ONLY


def is_of_statement(error: BaseException | None) -> bool:
    """Whether a fault ended a statement alone: its session goes on, and says nothing about others.

    Through Citus, a node that is away is such a fault of the statements that need it.
    """
    return isinstance(error, asyncpg.PostgresError) and error.severity_en == "ERROR" and error.sqlstate != READ_ONLY


def _says_not_now(error: asyncpg.PostgresError) -> bool:
    state = error.sqlstate or "08000"
    return (
        state.startswith(_UNAVAILABLE)
        or state == READ_ONLY
        or (state == "XX000" and any(sign in str(error) for sign in _CITUS_UNAVAILABLE))
    )
