"""`billing-service distribute`: spreads the database over the nodes of a Citus cluster, by customer."""

import asyncio

import click

from billing_service.database.distribution import distribute, require_cluster
from billing_service.database.migrations import check_schema
from billing_service.database.pool import connected, unavailable_if_away
from billing_service.settings import Settings, SettingsError, load_settings

MEGABYTE = 1 << 20
SHARDS_A_NODE = 2


@click.command(name="distribute")
@click.option(
    "--shards",
    type=click.IntRange(1, 1024),
    help="Divide the customers into so many parts: at least one for each node that the cluster may grow to, and no "
    "more than that needs.  [default: two for each node]",
)
def command(shards: int | None) -> None:
    """Distribute the database over the nodes of a Citus cluster, by customer. It has to be migrated already.

    Stop the service before, and start it again afterwards. What was interrupted goes on when it is run again.
    """
    settings = load_settings()
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: not set; it must name the database at the coordinator of a Citus cluster")
    with unavailable_if_away():
        tables = asyncio.run(_distribute(settings, shards))
    click.echo(f"{tables} table{'' if tables == 1 else 's'} distributed" if tables else "nothing to do")


async def _distribute(settings: Settings, shards: int | None) -> int:
    async with connected(settings) as connection:
        nodes = await require_cluster(connection)
        await check_schema(connection)
    tables = 0
    async for step in distribute(settings, shards or nodes * SHARDS_A_NODE):
        where = "by customer" if step.by_customer else "to every node"
        size = f"{-(-step.bytes // MEGABYTE):,} MB"
        click.echo(f"{step.number} of {step.total}: {step.name} ({size}) {where} …")
        tables += 1
    return tables
