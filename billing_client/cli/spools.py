"""`billing spool`: what a recorder keeps on disk, offline."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from billing_client import AttemptEvent, BillingError, DeadLetter, RecorderCounts, RecorderEvent, Spool
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, failure_from
from billing_client.cli.options import Connection, connection_options, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_table, text_column
from billing_client.contract.decimals import plain
from billing_client.contract.wire import NewUsage, ProblemDetails

_file = click.argument("file", type=click.Path(path_type=Path))


class _Letter(Struct, rename="camel", frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter, as JSON. `body` is there instead of `usage` if it is not that of usage."""

    request_id: str
    idempotency_key: str
    recorded_at: datetime
    dead_at: datetime
    attempts: int
    usage: NewUsage[Decimal] | None = None
    body: str | None = None
    problem: ProblemDetails[Decimal]


class _Revived(Struct, frozen=True):
    revived: int


@click.group()
def spool() -> None:
    """Inspect a recorder's file, deliver it, retry what was refused."""


@spool.command(
    cls=Command,
    epilog="""\b
Examples:
  billing spool status usage.db
  billing spool status usage.db --dead --json | head""",
)
@_file
@click.option("--dead", is_flag=True, help="List the dead letters: what the service refused, and why.")
@json_option
def status(file: Path, dead: bool, as_json: bool) -> None:
    """What FILE holds, also while a recorder uses it.

    With --json an object; with --dead one for each dead letter, a line each.
    """
    with Spool(file, read_only=True) as found:
        if dead:
            _print_dead(found.dead_letters(), as_json)
            return
        held = found.status()
    if as_json:
        print_json(held)
        return
    rows = [
        ("pending", str(held.pending), f"the oldest since {held.oldest.isoformat()}" if held.oldest else ""),
        ("attempted", str(held.attempted), "of the pending, sent before"),
        ("dead", str(held.dead), "refused by the service: --dead lists them"),
        ("bytes", str(held.bytes), "of their JSON"),
    ]
    print_table([text_column(""), number_column(""), text_column("")], rows, heading=False)


def _print_dead(letters: Sequence[DeadLetter], as_json: bool) -> None:
    if as_json:
        for letter in letters:
            use = _usage(letter)
            shown = {"usage": use, "body": None if use is not None else letter.body.decode(errors="backslashreplace")}
            print_json(_Letter(**msgspec.structs.asdict(letter) | shown))
        return
    names = ("request id", "customer", "service", "units", "price", "event id", "why")
    rows = [(letter.request_id, *_cells(_usage(letter)), letter.problem.detail) for letter in letters]
    print_table([text_column(name) for name in names], rows)


def _cells(usage: NewUsage[Decimal] | None) -> tuple[str, ...]:
    if usage is None:
        return ("",) * 5
    figures = (plain(usage.units_consumed), plain(usage.price_per_unit))
    return (usage.customer_id, usage.service, *figures, usage.event_id or "")


def _usage(letter: DeadLetter) -> NewUsage[Decimal] | None:
    return None if letter.usage is None else NewUsage(**msgspec.structs.asdict(letter.usage))


@spool.command(
    cls=Command,
    epilog="""\b
Example:
  billing spool flush usage.db --timeout 600""",
)
@_file
@connection_options(timeout=60)
@json_option
def flush(connection: Connection, file: Path, as_json: bool) -> None:
    """Deliver what FILE holds, where its recorder no longer runs.

    Exits with 0 once nothing is pending and nothing was refused.
    """
    logging.getLogger("billing_client").addHandler(logging.NullHandler())  # what it would say is said below
    with Spool(file):  # there is one, and nobody holds it: a recorder would make a new one
        pass
    counts, error = asyncio.run(_flush(connection, file))
    if as_json:
        print_json(counts)
    else:
        said = f"{counts.delivered} delivered, {counts.duplicates} duplicates, {counts.dead} refused"
        click.echo(f"{said}, {counts.pending} pending")
    if counts.pending:
        again = f"{counts.pending} records are still in {file}; run it again"
        if error is None:
            raise CommandError(ExitCode.UNREACHABLE, f"not done within {connection.timeout:g} s. {again}")
        raise failure_from(error, connection.base_url, again)
    if counts.dead:
        message = f"{counts.dead} records were refused: billing spool status {file} --dead"
        raise CommandError(ExitCode.REFUSED, message)


async def _flush(connection: Connection, file: Path) -> tuple[RecorderCounts, BillingError | None]:
    """What became of the records, and why the last attempt failed, where it did."""
    errors: list[BillingError | None] = [None]

    def note(event: RecorderEvent) -> None:
        if isinstance(event, AttemptEvent):
            errors[0] = event.error

    async with connection.client(timeout=connection.timeout / 2) as client:  # so that an attempt ends, and says why
        async with client.recorder(spool=file, on_event=note, close_timeout=0) as recorder:
            await recorder.flush(connection.timeout)
        return recorder.counts, errors[0]


@spool.command(
    cls=Command,
    epilog="""\b
Examples:
  billing spool redrive usage.db && billing spool flush usage.db
  billing spool redrive usage.db --request-id 43ff5bb189ef749d424d9f157365bc6b3c2f69247ad0c1a675e6b494424dabe9""",
)
@_file
@click.option("--request-id", "request_ids", multiple=True, metavar="ID", help="Of one, or of more.  [default: all]")
@json_option
def redrive(file: Path, request_ids: tuple[str, ...], as_json: bool) -> None:
    """Put dead letters of FILE back in line, once what made the service refuse them is mended.

    The next recorder sends them, or `billing spool flush`.
    """
    with Spool(file) as found:
        revived = found.redrive(request_ids or None)
    if as_json:
        print_json(_Revived(revived))
    else:
        click.echo(f"{revived} dead letters are in line again")
