"""`billing-service dimensions`: says which dimensions are summed up with the records."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from billing_client.contract.wire import readable
from billing_service.database.embedded import named_or_embedded
from billing_service.database.migrations import check_schema
from billing_service.database.pool import Connection, connected, unavailable_if_away
from billing_service.ledger.dimensions import (
    PreparedDimension,
    add_dimension,
    check_name,
    list_dimensions,
    remove_dimension,
)
from billing_service.settings import load_settings

T = TypeVar("T")


@click.group(name="dimensions")
def command() -> None:
    """Say which dimensions are summed up with the records, so that sums by them are read at once."""


def _name(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return check_name(value)
    except ValueError as error:
        raise click.BadParameter(readable(error)) from error


_name_argument = click.argument("name", callback=_name)


@command.command()
@_name_argument
def add(name: str) -> None:
    """Sum up the dimension NAME from now on, and all that was recorded before.

    Usage is recorded meanwhile. If this is stopped, run it again: it goes on where it was.
    """

    async def work(connection: Connection) -> None:
        shown = 0
        async for done, customers in add_dimension(connection, name):
            if done * 100 // customers > shown or done == customers:
                shown = done * 100 // customers
                click.echo(f"{done} of {customers} customers")

    _run(work)
    click.echo(f"{name} is summed up")


@command.command(name="list")
def list_command() -> None:
    """List the dimensions that are summed up, and how far that is."""
    for dimension in _run(list_dimensions):
        click.echo(f"{dimension.name}  {_state(dimension)}")


@command.command()
@_name_argument
def remove(name: str) -> None:
    """Sum up the dimension NAME no more, and delete its sums. The records keep it."""
    if not _run(lambda connection: remove_dimension(connection, name)):
        sys.exit(f"billing-service: {name} is not summed up. Run: billing-service dimensions list")
    click.echo(f"{name} is no longer summed up")


def _state(dimension: PreparedDimension) -> str:
    if dimension.filled_at is not None:
        return f"summed up since {dimension.filled_at:%Y-%m-%d %H:%M}Z"
    progress = f"{dimension.done} of {dimension.customers} customers are done"
    return f"{progress}; to go on, run: billing-service dimensions add {dimension.name}"


def _run(work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do `work` on a connection to the database. Raises MigrationError if its schema is not this program's."""
    with named_or_embedded(load_settings()) as (settings, _), unavailable_if_away():

        async def work_connected() -> T:
            async with connected(settings) as connection:
                await check_schema(connection)
                return await work(connection)

        return asyncio.run(work_connected())
