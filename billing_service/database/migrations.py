"""Numbered migrations: `sql/migrations/NNNN_name.sql`, applied in order, one statement at a time.

Indexes on tables that may be large are in `sql/indexes.sql`. They are built after the migrations and outside of their
transaction (`CREATE INDEX CONCURRENTLY`), so that usage is recorded meanwhile. Nothing depends on them but speed.

A program also runs on a newer schema, so that the old and the new version can serve side by side during an upgrade. A
migration that does not allow this has a line `-- breaking: why`: programs that do not know it refuse to run.

In a database that is distributed by customer, what a migration creates is distributed too. A new table gets its foreign
keys in a later statement, since they can only refer to what is distributed in the same way.
"""

import asyncio
import re
from collections.abc import AsyncIterator
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
_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_BREAKING = re.compile(r"^-- breaking: ", re.MULTILINE)
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


async def migrate(settings: Settings, migrations: list[Migration] | None = None) -> list[Migration]:
    """Apply the missing migrations in one transaction. A lock makes other programs wait. Returns the applied ones.

    Args:
        settings: The settings, which name the database.
        migrations: The migrations to use; by default all that this program knows.

    Raises:
        MigrationError: The schema is too new for this program.
        asyncpg.PostgresError: A statement failed, and nothing was changed.
    """
    migrations = load_migrations() if migrations is None else migrations
    async with connected(settings) as connection, connection.transaction():
        await connection.execute(_QUERIES["lock"])
        await connection.execute(_QUERIES["create_table"])
        await connection.execute(_QUERIES["add_breaking"])
        current = await connection.fetchval(_QUERIES["current_version"])
        await _refuse_too_new(connection, current, len(migrations))
        await write_in_sequence(connection)
        distributed = await is_distributed(connection)
        for migration in migrations[current:]:
            for statement in migration.statements:
                await connection.execute(statement)
                if distributed:
                    await distribute_new_table(connection, statement)
            await connection.execute(_QUERIES["applied"], migration.version, migration.name, migration.breaking)
        if distributed and migrations[current:]:
            await copy_functions(connection)
    await _build_indexes(settings)
    return migrations[current:]


async def _build_indexes(settings: Settings) -> None:
    """Build the indexes that are missing, and those anew whose building was cut off."""
    async with connected(settings) as connection:
        for name in _INDEXES:
            if f"drop_{name}" in _INDEXES and await connection.fetchval(_QUERIES["index_state"], name) is not True:
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
