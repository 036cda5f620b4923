"""`billing-service migrate`: brings the schema up to date, and grants a role the rights the service needs."""

import asyncio

import click

from billing_service.database.embedded import named_or_embedded
from billing_service.database.grants import grant
from billing_service.database.migrations import Migration, migrate
from billing_service.database.pool import unavailable_if_away
from billing_service.settings import Settings, load_settings


@click.command(name="migrate")
@click.option("--grant-to", "role", metavar="ROLE", help="Let this role do what the service does, and no more.")
def command(role: str | None) -> None:
    """Bring the database's schema up to date."""
    with named_or_embedded(load_settings()) as (settings, where):
        applied = apply_migrations(settings)
        if role is not None:
            with unavailable_if_away():
                asyncio.run(grant(settings, role))
        count = f"{len(applied)} migration{'' if len(applied) == 1 else 's'} applied"
        click.echo(f"{where}: {count if applied else 'nothing to do'}")
        for migration in applied:
            click.echo(f"  {migration.version:04} {migration.name}")


def apply_migrations(settings: Settings) -> list[Migration]:
    """Apply the migrations that are missing, and return them.

    Raises MigrationError where the schema is too new, DatabaseUnavailableError where the database does not answer.
    """
    with unavailable_if_away():
        return asyncio.run(migrate(settings))
