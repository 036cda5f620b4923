"""`python -m tests.faults.applications`: a long run, and its report."""

import asyncio
import random
import sys
import tempfile
from pathlib import Path

import click

from tests.databases import database, find_server, migrated_database
from tests.faults.applications.application import PRODUCERS
from tests.faults.applications.run import run


@click.command()
@click.option(
    "--producer", type=click.Choice(list(PRODUCERS)), default="fastapi", show_default=True, help="Which application."
)
@click.option("--requests", default=20_000, show_default=True, help="How many requests are made, or tasks sent.")
@click.option("--kills", default=20, show_default=True, help="How many workers are killed, and half as many services.")
@click.option("--seed", type=int, help="Of what is drawn.")
def main(producer: str, requests: int, kills: int, seed: int | None) -> None:
    """Record usage in three workers while they and the service are killed, and check the bill; exit 1 if not right."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with (
        tempfile.TemporaryDirectory(prefix="billing-applications-") as folder,
        find_server() as server,
        migrated_database(server) as template,
        database(server, template) as name,
    ):
        found = asyncio.run(run(Path(folder), server.url_of(name), producer, 3, requests, kills, seed))
    click.echo(f"{producer}, seed {seed}")
    for name in found.__struct_fields__:
        value = getattr(found, name)
        click.echo(f"{name:14} {' '.join([str(len(value)), *value[:5]]) if isinstance(value, list) else value}")
    sys.exit(0 if found.is_right else 1)


if __name__ == "__main__":
    main()
