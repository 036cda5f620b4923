"""`billing record`: one use."""

import asyncio
from datetime import datetime
from typing import Literal
from uuid import uuid4

import click

from billing_client import Usage, UsageRecord
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError
from billing_client.cli.options import Connection, connection_options, instant, json_option, pairs
from billing_client.cli.output import print_json
from billing_client.contract.wire import printable


@click.command(
    cls=Command,
    epilog="""\b
Example:
  billing record --customer acme --service storage --units 1.5 --price 0.02 --event-id volume-17/2026-09-01""",
)
@click.option("--customer", "customer_id", required=True, metavar="ID")
@click.option("--service", required=True, metavar="NAME")
@click.option("--units", "units_consumed", required=True, metavar="NUMBER", help="Units consumed.")
@click.option("--price", "price_per_unit", required=True, metavar="NUMBER", help="Price of one unit.")
@click.option("--event-id", metavar="ID", help="Your name for this use; without it, equal numbers are the same use.")
@click.option(
    "--occurred-at", callback=instant, metavar="TIME", help="When, with an offset.  [default: when the service gets it]"
)
@click.option(
    "--dimension",
    "dimensions",
    multiple=True,
    callback=pairs,
    metavar="NAME=VALUE",
    help="What else it is billed or reported by; repeatable.",
)
@click.option("--idempotency-key", metavar="KEY", help="Repeats the call of that key.  [default: a new one]")
@click.option(
    "--on-duplicate",
    type=click.Choice(["raise", "return"]),
    default="raise",
    show_default=True,
    help="Where it was recorded before: exit with 3, or print that record.",
)
@connection_options(timeout=30)
@json_option
def record(
    connection: Connection,
    idempotency_key: str | None,
    on_duplicate: Literal["raise", "return"],
    as_json: bool,
    customer_id: str,
    service: str,
    units_consumed: str,
    price_per_unit: str,
    event_id: str | None,
    occurred_at: datetime | None,
    dimensions: dict[str, str],
) -> None:
    """Record one use, once."""
    if occurred_at is not None and occurred_at.tzinfo is None:
        raise click.BadParameter("needs an offset, as in 2026-11-01T08:00:00Z.", param_hint="--occurred-at")
    usage = Usage(
        customer_id=customer_id,
        service=service,
        units_consumed=units_consumed,
        price_per_unit=price_per_unit,
        event_id=event_id,
        occurred_at=occurred_at,
        dimensions=dimensions,
    )
    key = idempotency_key or str(uuid4())
    try:
        stored = asyncio.run(_record(connection, usage, key, on_duplicate))
    except KeyboardInterrupt as error:
        message = f"stopped. It may be recorded: run it again, with --idempotency-key {key}"
        raise CommandError(ExitCode.INTERRUPTED, message, {"outcome": "unknown", "idempotencyKey": key}) from error
    if as_json:
        print_json(stored)
    else:
        said = (
            f"{stored.outcome}: {stored.units_consumed:f} x {stored.price_per_unit:f} = {stored.amount:f}, "
            f"{stored.service} of {stored.customer_id}, request id {stored.request_id}"
        )
        click.echo(printable(said))


async def _record(
    connection: Connection, usage: Usage, key: str, on_duplicate: Literal["raise", "return"]
) -> UsageRecord:
    async with connection.client() as client:
        return await client.record_usage(
            customer_id=usage.customer_id,
            service=usage.service,
            units_consumed=usage.units_consumed,
            price_per_unit=usage.price_per_unit,
            event_id=usage.event_id,
            occurred_at=usage.occurred_at,
            dimensions=usage.dimensions,
            idempotency_key=key,
            on_duplicate=on_duplicate,
        )
