"""`billing customers`: list, add and rename customers."""

import asyncio
from contextlib import aclosing

import click

from billing_client import Customer
from billing_client.cli.failures import Command, repeatable
from billing_client.cli.options import Connection, connection_options, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import print_table, text_column, whole_column
from billing_client.contract.identity import new_customer_id
from billing_client.contract.wire import printable


@click.group()
def customers() -> None:
    """List, add and rename customers."""


@customers.command(
    "list",
    cls=Command,
    epilog="""\b
Examples:
  billing customers list
  billing customers list --json | head""",
)
@connection_options(timeout=10)
@json_option
def list_(connection: Connection, as_json: bool) -> None:
    """All customers, by id. With --json an object for each, a line each."""
    asyncio.run(_list(connection, as_json))


async def _list(connection: Connection, as_json: bool) -> None:
    found: list[Customer] = []
    async with connection.client() as client, aclosing(client.customers(page_size=1_000)) as each:
        async for customer in each:
            if as_json:
                print_json(customer)
            else:
                found.append(customer)
    if not as_json:
        columns = [text_column("id"), text_column("name"), whole_column("created")]
        print_table(columns, [(each.id, each.name, f"{each.created_at:%Y-%m-%d}") for each in found])


@customers.command(
    cls=Command,
    epilog="""\b
Examples:
  billing customers add Acme --id acme
  billing customers add "Beta Ltd" """,
)
@click.argument("name")
@click.option("--id", "customer_id", metavar="ID", help="Your id for the customer.  [default: a new one]")
@connection_options(timeout=30)
@json_option
def add(connection: Connection, name: str, customer_id: str | None, as_json: bool) -> None:
    """Add a customer of this NAME."""
    id_ = new_customer_id() if customer_id is None else customer_id
    with repeatable(f"It may be there. Run it again with --id {id_}; if it is there, that says so"):
        _print(asyncio.run(_add(connection, name, id_)), as_json)


async def _add(connection: Connection, name: str, customer_id: str) -> Customer:
    async with connection.client() as client:
        return await client.create_customer(name=name, customer_id=customer_id)


@customers.command(
    cls=Command,
    epilog="""\b
Example:
  billing customers rename acme "Acme Ltd" """,
)
@click.argument("customer_id", metavar="ID")
@click.argument("name")
@connection_options(timeout=30)
@json_option
def rename(connection: Connection, customer_id: str, name: str, as_json: bool) -> None:
    """Give the customer of this ID another NAME. Statements that are made from then on have it."""
    with repeatable("Run it again: a second time changes nothing"):
        _print(asyncio.run(_rename(connection, customer_id, name)), as_json)


async def _rename(connection: Connection, customer_id: str, name: str) -> Customer:
    async with connection.client() as client:
        return await client.update_customer(customer_id=customer_id, name=name)


def _print(customer: Customer, as_json: bool) -> None:
    if as_json:
        print_json(customer)
    else:
        click.echo(printable(f"{customer.id}: {customer.name}"))
