"""Numbered migrations: `sql/migrations/NNNN_name.sql`, applied in order, each statement by itself."""

import re
from pathlib import Path

import asyncpg
from msgspec import Struct

from billing_service.database import Connection
from billing_service.queries import SQL_FOLDER, load_queries
from billing_service.settings import Settings

_QUERIES = load_queries("schema_migrations")
_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_STATEMENT_END = re.compile(r";[ \t]*(?:\n[ \t]*\n|\s*\Z)")  # an empty line follows; within a function none does


class MigrationError(Exception):
    """The database's schema does not fit this program; the message says what to do."""


class Migration(Struct, frozen=True):
    version: int
    name: str
    statements: list[str]


def load_migrations(folder: Path = SQL_FOLDER / "migrations") -> list[Migration]:
    """Every migration the program knows, in order."""
    matches = [(path, _FILE_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.sql"))]
    migrations = [Migration(int(m[1]), m[2], _statements(path)) for path, m in matches if m]
    if [m.version for m in migrations] != list(range(1, len(matches) + 1)):
        raise MigrationError(f"The files in {folder} are not numbered 0001, 0002, … without a gap.")
    return migrations


def _statements(path: Path) -> list[str]:
    return [part.strip() for part in _STATEMENT_END.split(path.read_text(encoding="utf-8")) if part.strip()]


async def migrate(settings: Settings, migrations: list[Migration] | None = None) -> list[Migration]:
    """Apply what is missing, all of it or nothing, one program at a time; return what was applied.

    Raises MigrationError where the database is newer than the program, and what asyncpg raises.
    """
    migrations = load_migrations() if migrations is None else migrations
    connection = await asyncpg.connect(settings.database_url, timeout=settings.database_timeout)
    try:
        async with connection.transaction():
            await connection.execute(_QUERIES["lock"])
            await connection.execute(_QUERIES["create_table"])
            current = await connection.fetchval(_QUERIES["current_version"])
            _refuse_newer(current, migrations)
            for migration in migrations[current:]:
                for statement in migration.statements:
                    await connection.execute(statement)
                await connection.execute(_QUERIES["applied"], migration.version, migration.name)
        return migrations[current:]
    finally:
        await connection.close()


async def check_schema(connection: "Connection | asyncpg.Connection[asyncpg.Record]") -> None:
    """Raise MigrationError unless the schema is the one this program was written for."""
    migrations = load_migrations()
    known = await connection.fetchval(_QUERIES["exists"])
    current = await connection.fetchval(_QUERIES["current_version"]) if known else 0
    _refuse_newer(current, migrations)
    if current < len(migrations):
        raise MigrationError(
            f"The database's schema is at version {current}, this program needs {len(migrations)}. "
            "Run: billing-service migrate"
        )


def _refuse_newer(current: int, migrations: list[Migration]) -> None:
    if current > len(migrations):
        raise MigrationError(
            f"The database's schema is at version {current}, newer than this program, which knows {len(migrations)}. "
            "Nothing was changed. Run a newer billing-service against it."
        )
