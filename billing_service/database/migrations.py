"""Numbered migrations: `sql/migrations/NNNN_name.sql`, applied in order, one statement at a time.

Indexes on tables that may be large are in `sql/indexes.sql`. They are built after the migrations and outside of their
transaction (`CREATE INDEX CONCURRENTLY`), so that usage is recorded meanwhile. Nothing depends on them but speed. A
migration that creates one of them too, from before it was there, leaves it out.

A change of a table waits for whoever reads or writes it, and all who come later wait behind it. So it waits for a
moment only, gives way, and tries again: a backup that reads for hours keeps nobody from recording usage.

A program also runs on a newer schema, so that the old and the new version can serve side by side during an upgrade. A
migration that does not allow this has a line `-- breaking: why`: programs that do not know it refuse to run.

In a database that is distributed by customer, what a migration creates is distributed too. A new table gets its foreign
keys in a later statement, since they can only refer to what is distributed in the same way.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
from msgspec import Struct

from billing_service.database.distribution import copy_functions, distribute_new_table, write_in_sequence
from billing_service.database.nodes import is_distributed
from billing_service.database.pool import Connection, connected
from billing_service.database.queries import SQL_FOLDER, load_queries
from billing_service.settings import Settings

_QUERIES = load_queries("schema_migrations")
_INDEXES = load_queries("indexes")
LOCK_SECONDS = 0.1  # between two looks whether another program has built the indexes
LOCK_TIMEOUT = "500ms"  # for which a change waits for a table, and others behind it
GIVE_WAY_SECONDS = 2.0  # until it tries again
_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_BREAKING = re.compile(r"^-- breaking: ", re.MULTILINE)
_CREATES_INDEX = re.compile(r"(?:--[^\n]*\n|\s)*CREATE INDEX (\w+)")
_STATEMENT_END = re.compile(r";[ \t]*(?:\n[ \t]*\n|\s*\Z)")  # followed by an empty line, unlike within a function


AnyConnection: TypeAlias = "Connection | asyncpg.Connection[asyncpg.Record]"


class MigrationError(Exception):
    """The database's schema does not fit this program. The message says what to do."""


class Migration(Struct, frozen=True):
    version: int
    name: str
    statements: list[str]
    breaking: bool = False


def load_migrations(folder: Path = SQL_FOLDER / "migrations") -> list[Migration]:
    """Every migration that this program knows, in order. Raises MigrationError if a number is missing."""
    matches = [(path, _FILE_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.sql"))]
    migrations = [_read(path, int(m[1]), m[2]) for path, m in matches if m]
    if [m.version for m in migrations] != list(range(1, len(matches) + 1)):
        raise MigrationError(f"The files in {folder} are not numbered 0001, 0002, … without a gap.")
    return migrations


def _read(path: Path, version: int, name: str) -> Migration:
    text = path.read_text(encoding="utf-8")
    statements = [part.strip() for part in _STATEMENT_END.split(text) if part.strip()]
    return Migration(version, name, statements, _BREAKING.search(text) is not None)


async def migrate(
    settings: Settings, migrations: list[Migration] | None = None, tell: Callable[[str], object] = lambda _: None
) -> list[Migration]:
    """Apply the missing migrations in one transaction. A lock makes other programs wait. Returns the applied ones.

    Args:
        settings: The settings, which name the database.
        migrations: The migrations to use; by default all that this program knows.
        tell: Is called with a line of text about what it does now, where that may take long.

    Raises:
        MigrationError: The schema is too new for this program.
        asyncpg.PostgresError: A statement failed, and nothing was changed.
    """
    migrations = load_migrations() if migrations is None else migrations
    while True:
        try:
            applied = await _apply_missing(settings, migrations)
            break
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            tell("Waiting for a table that others use, such as a backup or an export; nothing is changed yet")
            await asyncio.sleep(GIVE_WAY_SECONDS)
    await _build_indexes(settings, tell)
    return applied


async def _apply_missing(settings: Settings, migrations: list[Migration]) -> list[Migration]:
    async with connected(settings) as connection, connection.transaction():
        await connection.execute(_QUERIES["lock"])
        await connection.execute(_QUERIES["give_way"], LOCK_TIMEOUT)
        await connection.execute(_QUERIES["create_table"])
        await connection.execute(_QUERIES["add_breaking"])
        current = await connection.fetchval(_QUERIES["current_version"])
        await _refuse_too_new(connection, current, len(migrations))
        await write_in_sequence(connection)
        distributed = await is_distributed(connection)
        for migration in migrations[current:]:
            for statement in _without_indexes(migration.statements):
                await connection.execute(statement)
                if distributed:
                    await distribute_new_table(connection, statement)
            await connection.execute(_QUERIES["applied"], migration.version, migration.name, migration.breaking)
        if distributed and migrations[current:]:
            await copy_functions(connection)
    return migrations[current:]


def _without_indexes(statements: list[str]) -> list[str]:
    """Statements, but for those that create an index which is built afterwards."""
    named = ((statement, _CREATES_INDEX.match(statement)) for statement in statements)
    return [statement for statement, match in named if match is None or match[1] not in _INDEXES]


async def _build_indexes(settings: Settings, tell: Callable[[str], object]) -> None:
    """Build the indexes that are missing, and those anew whose building was cut off."""
    async with connected(settings) as connection:
        for name in _INDEXES:
            if f"drop_{name}" in _INDEXES and await connection.fetchval(_QUERIES["index_state"], name) is not True:
                tell(f"Building the index {name}; usage is recorded meanwhile")
                async with _index_lock(connection, settings):
                    if await connection.fetchval(_QUERIES["index_state"], name) is False:
                        await connection.execute(_INDEXES[f"drop_{name}"])
                    await connection.execute(_INDEXES[name])


@asynccontextmanager
async def _index_lock(connection: AnyConnection, settings: Settings) -> AsyncIterator[None]:
    """Let one program at a time build indexes. Others look again and again: a statement that waited for the lock would
    have a snapshot, and the building waits for those. Through PgBouncer there is no such lock."""
    if settings.pgbouncer:
        yield
        return
    while not await connection.fetchval(_QUERIES["lock_indexes"]):  # noqa: ASYNC110 - no event tells of another program
        await asyncio.sleep(LOCK_SECONDS)
    try:
        yield
    finally:
        await connection.execute(_QUERIES["unlock_indexes"])


async def check_schema(connection: AnyConnection) -> None:
    """Raise MigrationError unless this program can run on the schema."""
    migrations = load_migrations()
    known = await connection.fetchval(_QUERIES["exists"])
    current = await connection.fetchval(_QUERIES["current_version"]) if known else 0
    await _refuse_too_new(connection, current, len(migrations))
    if current < len(migrations):
        raise MigrationError(
            f"The database's schema is at version {current}, this program needs {len(migrations)}. "
            "Run: billing-service migrate"
        )


async def _refuse_too_new(connection: AnyConnection, current: int, known: int) -> None:
    if current > known and await connection.fetchval(_QUERIES["breaks"], known):
        raise MigrationError(
            f"The database's schema is at version {current}, too new for this program, which knows {known}. "
            "Nothing was changed. Run a newer billing-service against it."
        )
