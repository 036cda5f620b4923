"""`billing record`: one use. `billing usage`: list, show and void records."""

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import click

from billing_client import Usage, UsageRecord, VoidedUsage
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, repeatable
from billing_client.cli.options import (
    Connection,
    connection_options,
    filter_option,
    in_zone,
    instant,
    json_option,
    pairs,
    span_options,
)
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_facts, print_table, text_column, whole_column
from billing_client.contract.decimals import plain
from billing_client.contract.wire import printable

_customer = click.option("--customer", "customer_id", required=True, metavar="ID", help="Whose usage.")
_request_id = click.argument("request_id", metavar="REQUEST_ID")


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
    "--occurred-at",
    callback=instant,
    metavar="TIME",
    help="When: a time with an offset, e.g. 2026-11-01T08:00:00Z.  [default: when the service gets it]",
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


@click.group()
def usage() -> None:
    """List, show and void the records of a customer."""


@usage.command(
    "list",
    cls=Command,
    epilog="""\b
Examples:
  billing usage list --customer acme
  billing usage list --customer acme --service storage --from 2026-11-01 --to 2026-12-01 --json""",
)
@_customer
@click.option("--service", metavar="NAME", help="One service.  [default: all]")
@click.option("--event-id", metavar="ID", help="The record with this event id.")
@filter_option
@span_options
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, metavar="N", show_default=True, help="How many at most."
)
@connection_options(timeout=10)
@json_option
def list_(
    connection: Connection,
    customer_id: str,
    service: str | None,
    event_id: str | None,
    dimensions: dict[str, str],
    start: datetime | None,
    end: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """A customer's records, by the time they occurred. With --json an object for each, a line each."""
    filters: dict[str, Any] = {"service": service, "event_id": event_id, "dimensions": dimensions}
    filters |= {"start": in_zone(start), "end": in_zone(end)}
    asyncio.run(_list(connection, customer_id, filters, limit, as_json))


async def _list(connection: Connection, customer_id: str, filters: dict[str, Any], limit: int, as_json: bool) -> None:
    found: list[UsageRecord] = []
    async with connection.client() as client:
        records = client.usage(customer_id=customer_id, page_size=min(limit + 1, 1_000), **filters)
        async with aclosing(records):
            async for record in records:
                if len(found) == limit:
                    click.echo(f"There are more than {limit}: see --limit, --from and --to.", err=True)
                    break
                found.append(record)
    if as_json:
        for record in found:
            print_json(record)
        return
    columns = [whole_column("occurred"), text_column("service"), *map(number_column, ("units", "price", "amount"))]
    columns += [text_column("event id"), text_column("request id"), whole_column("voided")]
    print_table(columns, [_cells(record) for record in found])


def _cells(record: UsageRecord) -> tuple[str, ...]:
    figures = (plain(record.units_consumed), plain(record.price_per_unit), plain(record.amount))
    voided = "" if record.voided_at is None else _time(record.voided_at)
    return (
        _time(record.occurred_at),
        record.service,
        *figures,
        record.event_id or "",
        record.request_id,
        voided,
    )


@usage.command(
    cls=Command,
    epilog="""\b
Example:
  billing usage show --customer acme 36ccdaa281f821b047549fda8919feb3580cac9572794f4f95443216fe0d8d52""",
)
@_request_id
@click.option("--customer", "customer_id", metavar="ID", help="Whose usage, where it is known.  [default: any]")
@connection_options(timeout=10)
@json_option
def show(connection: Connection, request_id: str, customer_id: str | None, as_json: bool) -> None:
    """One record, by its request id."""
    record = asyncio.run(_show(connection, customer_id, request_id))
    if as_json:
        print_json(record)
        return
    facts = {
        "customer": record.customer_id,
        "service": record.service,
        "units": plain(record.units_consumed),
        "price": plain(record.price_per_unit),
        "amount": plain(record.amount),
        "event id": record.event_id,
        "occurred": record.occurred_at.isoformat(),
        "recorded": record.recorded_at.isoformat(),
        "recorded by": record.recorded_by,
        "voided": record.voided_at.isoformat() if record.voided_at else None,
        "request id": record.request_id,
    }
    facts |= {f"dimension {name}": value for name, value in (record.dimensions or {}).items()}
    print_facts({name: value for name, value in facts.items() if value is not None})


async def _show(connection: Connection, customer_id: str | None, request_id: str) -> UsageRecord:
    async with connection.client() as client:
        return await client.get_usage(customer_id=customer_id, request_id=request_id)


@usage.command(
    cls=Command,
    epilog="""\b
Example:
  billing usage void --customer acme --reason "measured twice" --for Ada 36ccdaa281f821b047549fda8919feb3580c…""",
)
@_request_id
@_customer
@click.option("--reason", required=True, metavar="TEXT", help="Why it no longer counts.")
@click.option("--for", "voided_for", metavar="NAME", help="On whose behalf.")
@connection_options(timeout=30)
@json_option
def void(
    connection: Connection, request_id: str, customer_id: str, reason: str, voided_for: str | None, as_json: bool
) -> None:
    """Void a record: totals leave it out for good, and the record stays."""
    with repeatable("It may be voided. Run it again: a second time changes nothing"):
        voided = asyncio.run(_void(connection, customer_id, request_id, reason, voided_for))
    if as_json:
        print_json(voided)
    else:
        amount, at = plain(voided.amount), "" if voided.voided_at is None else _time(voided.voided_at)
        said = f"voided at {at}: {amount} for {voided.service} of {voided.customer_id}: {voided.void_reason}"
        click.echo(printable(said))


async def _void(
    connection: Connection, customer_id: str, request_id: str, reason: str, voided_for: str | None
) -> VoidedUsage:
    async with connection.client() as client:
        return await client.void_usage(
            customer_id=customer_id, request_id=request_id, reason=reason, voided_for=voided_for
        )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
