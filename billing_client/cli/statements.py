"""`billing statement`: what a customer owes for a month."""

import asyncio

import click
from click import echo

from billing_client import Statement
from billing_client.cli.failures import Command
from billing_client.cli.options import Connection, connection_options, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_facts, print_table, text_column
from billing_client.contract.decimals import plain
from billing_client.contract.wire import printable


@click.group()
def statement() -> None:
    """What a customer owes for a month."""


@statement.command(
    cls=Command,
    epilog="""\b
Examples:
  billing statement show --customer acme --month 2026-11
  billing statement show --customer acme --month 2026-11 --timezone Europe/Berlin --json""",
)
@click.option("--customer", "customer_id", required=True, metavar="ID", help="Whose month.")
@click.option("--month", required=True, metavar="MONTH", help="The month, e.g. 2026-11.")
@click.option("--timezone", default="UTC", metavar="ZONE", show_default=True, help="IANA zone of the month.")
@click.option("--since", metavar="DIGEST", help="Say too what changed since the statement with this digest.")
@connection_options(timeout=10)
@json_option
def show(connection: Connection, customer_id: str, month: str, timezone: str, since: str | None, as_json: bool) -> None:
    """The month as it stands: a line for each service and price, exact, and the total, rounded once."""
    found = asyncio.run(_show(connection, customer_id, month, timezone, since))
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _show(connection: Connection, customer_id: str, month: str, timezone: str, since: str | None) -> Statement:
    async with connection.client() as client:
        return await client.statement(customer_id=customer_id, month=month, timezone=timezone, since=since)


def _print(found: Statement) -> None:
    echo(printable(f"{found.customer_name} ({found.customer_id}), {found.month}, {found.timezone}"))
    rows = [
        (line.service, str(line.records), plain(line.units), plain(line.price_per_unit), plain(line.amount))
        for line in found.lines
    ]
    rows.append(("total", str(found.total.records), "", "", plain(found.total.amount)))
    names = ("records", "units", "price", f"amount ({found.currency})")
    print_table([text_column("service"), *map(number_column, names)], rows)
    facts = {"to pay": f"{found.total.rounded:f} {found.currency}"}
    if found.late:
        facts["recorded late"] = f"{sum(line.records for line in found.late)} records, in the lines above"
    if found.voided.total.records:
        facts["voided"] = f"{found.voided.total.records} records of {plain(found.voided.total.amount)}, in no line"
    if found.changes is not None:
        facts["changed since"] = f"{found.changes.since}: to settle {found.changes.total.difference.rounded:f}"
    print_facts(facts | {"digest": found.digest})
