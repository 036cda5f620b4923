"""`billing refusals`: what was not recorded, and why."""

import asyncio
from contextlib import aclosing
from datetime import datetime
from itertools import chain
from typing import Any, get_args

import click

from billing_client import Refusal
from billing_client.cli.failures import Command
from billing_client.cli.options import Connection, connection_options, in_zone, instant, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import print_table, text_column
from billing_client.contract.query_parameters import RefusalCode
from billing_client.contract.wire import MAX_PAGE

COLUMNS = ("refused at", "code", "customer", "event id", "key", "why")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  billing refusals
  billing refusals --customer acme --event-id volume-17/2026-09-01
  billing refusals --code event_id_conflict --from 2026-11-01 --limit 1000 --json""",
)
@click.option("--customer", "customer_id", metavar="ID", help="One customer.  [default: all]")
@click.option("--code", type=click.Choice(get_args(RefusalCode)), help="One kind of refusal.  [default: all]")
@click.option("--key", metavar="KEY", help="What one API key submitted: bk_ and its id, without the secret.")
@click.option("--event-id", metavar="ID", help="Usage with this event id.")
@click.option("--request-id", metavar="HEX", help="Usage with this request id.")
@click.option("--from", "start", callback=instant, metavar="TIME", help="What was refused then or later.")
@click.option("--to", "end", callback=instant, metavar="TIME", help="What was refused before.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most to show.")
@connection_options(timeout=10)
@json_option
def refusals(
    connection: Connection,
    start: datetime | None,
    end: datetime | None,
    limit: int,
    as_json: bool,
    **filters: str | None,
) -> None:
    """What was not recorded, and why, latest first.

    Duplicates are not among it: their usage is recorded. With --json an object a line.
    """
    found = asyncio.run(_read(connection, limit, start=in_zone(start), end=in_zone(end), **filters))
    if as_json:
        for refusal in found:
            print_json(refusal)
    else:
        print_table([text_column(name) for name in COLUMNS], [_cells(refusal) for refusal in found])


async def _read(connection: Connection, limit: int, **filters: Any) -> list[Refusal]:
    found: list[Refusal] = []
    async with (
        connection.client() as client,
        aclosing(client.refusals(page_size=min(limit, MAX_PAGE), **filters)) as refusals,
    ):
        async for refusal in refusals:
            found.append(refusal)
            if len(found) == limit:
                break
    return found


def _cells(refusal: Refusal) -> tuple[str, ...]:
    at = refusal.refused_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    stated = (refusal.customer_id, refusal.event_id, refusal.submitted_by)
    return (at, refusal.code, *(text or "" for text in stated), why(refusal))


def why(refusal: Refusal) -> str:
    """The reason in a line."""
    faults = (f"{error.pointer or 'body'}: {error.message}" for error in refusal.errors or ())
    conflicts = (
        f"{each.field}: {each.submitted}" + ("" if each.recorded is None else f", recorded is {each.recorded}")
        for each in refusal.conflicts or ()
    )
    return "; ".join(chain(faults, conflicts)) or refusal.code.replace("_", " ")
