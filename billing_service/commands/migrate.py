"""`billing-service migrate`: brings the schema up to date, and grants a role the rights the service needs."""

import asyncio
from collections.abc import Callable
from functools import partial

import click

from billing_service.database.embedded import named_or_embedded
from billing_service.database.grants import grant
from billing_service.database.migrations import Migration, migrate
from billing_service.database.pool import unavailable_if_away
from billing_service.settings import Settings, load_settings


@click.command(name="migrate")
@click.option(
    "--grant-to", "role", metavar="ROLE", help="Give this role the rights that the service needs, and no more."
)
@click.option("--with-keys", is_flag=True, help="Let the role of --grant-to create and revoke API keys too.")
def command(role: str | None, with_keys: bool) -> None:
    """Bring the database's schema up to date."""
    if with_keys and role is None:
        raise click.UsageError("--with-keys needs --grant-to ROLE.")
    with named_or_embedded(load_settings()) as (settings, where):
        applied = apply_migrations(settings, partial(click.echo, err=True))
        if role is not None:
            with unavailable_if_away():
                asyncio.run(grant(settings, role, with_keys=with_keys))
        count = f"{len(applied)} migration{'' if len(applied) == 1 else 's'} applied"
        click.echo(f"{where}: {count if applied else 'nothing to do'}")
        for migration in applied:
            click.echo(f"  {migration.version:04} {migration.name}")


def apply_migrations(settings: Settings, tell: Callable[[str], object] = lambda _: None) -> list[Migration]:
    """Apply the migrations that are missing, and return them. `tell` is called with what takes long, as a line of text.

    Raises MigrationError where the schema is too new, DatabaseUnavailableError where the database does not answer.
    """
    with unavailable_if_away():
        return asyncio.run(migrate(settings, tell=tell))
