"""`billing spool`: what a recorder keeps on disk, offline."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from msgspec import Struct

from billing_client import (
    AttemptEvent,
    BillingError,
    BillingSystemClient,
    DeadLetter,
    RecorderCounts,
    RecorderEvent,
    Spool,
    SpoolError,
    SpoolInUseError,
    SpoolStatus,
)
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, failure_from
from billing_client.cli.options import Connection, connection_options, in_zone, instant, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_table, text_column
from billing_client.contract.decimals import plain
from billing_client.contract.wire import NewUsage, ProblemDetails, printable
from billing_client.spooling.spool_folder import PATTERN, spools_in

_places = click.argument("places", nargs=-1, required=True, metavar="FILE|FOLDER...", type=click.Path(path_type=Path))
_request_ids = click.option("--request-id", "request_ids", multiple=True, metavar="ID", help="Of one, or of more.")


class _Letter(Struct, rename="camel", frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter, as JSON. `body` is there instead of `usage` if it is not that of usage."""

    file: str
    request_id: str
    idempotency_key: str
    recorded_at: datetime
    dead_at: datetime
    attempts: int
    usage: NewUsage[Decimal] | None = None
    body: str | None = None
    problem: ProblemDetails[Decimal]


class _Status(SpoolStatus, rename="camel", frozen=True, kw_only=True):
    file: str


class _Revived(Struct, frozen=True):
    revived: int


class _Discarded(Struct, frozen=True):
    discarded: int


class _Resent(Struct, frozen=True):
    resent: int


class _Found(NamedTuple):
    """A spool that was named, or one of a folder that was; those in use are left out then."""

    path: Path
    in_folder: bool


def _find(places: Sequence[Path]) -> list[_Found]:
    """The spools that are meant."""
    found: list[_Found] = []
    for place in places:
        if not place.is_dir():
            found.append(_Found(place, in_folder=False))
            continue
        paths = spools_in(place)
        if not paths:
            click.echo(f"billing: {place} holds no spools ({PATTERN})", err=True)
        found += (_Found(path, in_folder=True) for path in paths)
    return found


class _Free(NamedTuple):
    """The spools that no recorder uses; those of folders that one uses, and those that cannot be read."""

    paths: list[Path]
    in_use: list[Path]
    faults: list[str]

    def complain(self) -> None:
        """Raises CommandError if some of a folder cannot be read."""
        if self.faults:
            raise CommandError(ExitCode.USAGE, f"left as they are: {'; '.join(self.faults)}")


def _free(places: Sequence[Path]) -> _Free:
    """The spools that are meant. One of a folder that cannot be read is in no other's way."""
    found = _Free([], [], [])
    for path, in_folder in _find(places):
        try:
            with Spool(path):
                found.paths.append(path)
        except SpoolError as error:
            if not in_folder:
                raise
            if isinstance(error, SpoolInUseError):
                found.in_use.append(path)
            elif path.exists():  # else a recorder has just removed it, since it was empty
                found.faults.append(error.detail)
    return found


def _change(
    places: Sequence[Path], work: Callable[[Spool], int], result: type[Struct], said: str, as_json: bool
) -> None:
    """Do something to every spool that is meant, and print how many records it concerned."""
    free = _free(places)
    number = 0
    for path in free.paths:
        with Spool(path) as found:
            number += work(found)
    if as_json:
        print_json(result(number))
    else:
        click.echo(f"{number} {said}")
    if free.in_use:
        count = len(free.in_use)
        message = f"{count} spools are in use by recorders, and left as they are: stop those, or use their methods"
        raise CommandError(ExitCode.USAGE, f"{message}: {' '.join(map(str, free.in_use))}")
    free.complain()


@click.group()
def spool() -> None:
    """Inspect a recorder's file, deliver it, retry what was refused."""


@spool.command(
    cls=Command,
    epilog="""\b
Examples:
  billing spool status usage.db
  billing spool status /var/lib/app/spool
  billing spool status usage.db --dead --json | head""",
)
@_places
@click.option("--dead", is_flag=True, help="List the dead letters: what the service refused, and why.")
@json_option
def status(places: tuple[Path, ...], dead: bool, as_json: bool) -> None:
    """What spools hold, also while recorders use them.

    With --json an object for each spool, a line each; with --dead one for each dead letter.
    """
    letters: list[tuple[Path, DeadLetter]] = []
    statuses: list[_Status] = []
    faults: list[str] = []
    for path, in_folder in _find(places):
        try:
            with Spool(path, read_only=True) as found:
                letters += ((path, letter) for letter in found.dead_letters() if dead)
                statuses.append(_Status(file=str(path), **msgspec.structs.asdict(found.status())))
        except SpoolError as error:
            if not in_folder:
                raise
            if path.exists():  # else a recorder has just removed it, since it was empty
                faults.append(error.detail)
    if dead:
        _print_dead(letters, as_json)
    elif as_json:
        for held in statuses:
            print_json(held)
    elif len(statuses) == 1:
        _print_one(statuses[0])
    else:
        _print_many(statuses)
    _Free([], [], faults).complain()


def _print_one(held: _Status) -> None:
    rows = [
        ("pending", str(held.pending), f"the oldest since {held.oldest.isoformat()}" if held.oldest else ""),
        ("attempted", str(held.attempted), "of the pending, sent before"),
        ("dead", str(held.dead), "refused by the service: --dead lists them"),
        ("delivered", str(held.delivered), "kept, to be sent again if the service loses them"),
        ("bytes", str(held.bytes), "of JSON, pending and dead"),
    ]
    print_table([text_column(""), number_column(""), text_column("")], rows, heading=False)


def _print_many(statuses: Sequence[_Status]) -> None:
    rows: list[tuple[str, ...]] = [
        (held.file, str(held.pending), str(held.dead), str(held.delivered), str(held.bytes), _oldest(held))
        for held in statuses
    ]
    if rows:
        sums = (sum(getattr(held, name) for held in statuses) for name in ("pending", "dead", "delivered", "bytes"))
        rows.append(("total", *map(str, sums), min(filter(None, map(_oldest, statuses)), default="")))
    figures = [number_column(name) for name in ("pending", "dead", "delivered", "bytes")]
    print_table([text_column("file"), *figures, text_column("oldest pending")], rows)


def _oldest(held: SpoolStatus) -> str:
    return held.oldest.isoformat(timespec="seconds") if held.oldest else ""


def _print_dead(letters: Sequence[tuple[Path, DeadLetter]], as_json: bool) -> None:
    if as_json:
        for path, letter in letters:
            use = _usage(letter)
            body = None if use is not None else letter.body.decode(errors="backslashreplace")
            print_json(_Letter(**msgspec.structs.asdict(letter) | {"file": str(path), "usage": use, "body": body}))
        return
    names = ("request id", "customer", "service", "units", "price", "event id", "why")
    rows = [(letter.request_id, *_cells(_usage(letter)), letter.problem.detail) for _, letter in letters]
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
Examples:
  billing spool flush usage.db --timeout 600
  billing spool flush /var/lib/app/spool""",
)
@_places
@connection_options(timeout=60)
@json_option
def flush(connection: Connection, places: tuple[Path, ...], as_json: bool) -> None:
    """Deliver what spools hold whose recorders no longer run.

    Exits with 0 once nothing is pending and nothing was refused.
    """
    logging.getLogger("billing_client").addHandler(logging.NullHandler())  # what it would say is said below
    free = _free(places)  # a recorder would make new ones
    for path in free.in_use:
        click.echo(printable(f"billing: {path} is left to the recorder that uses it"), err=True)
    counts, error = asyncio.run(_flush(connection, free.paths))
    if as_json:
        print_json(counts)
    else:
        said = f"{counts.delivered} delivered, {counts.duplicates} duplicates, {counts.dead} refused"
        click.echo(f"{said}, {counts.pending} pending")
    where = " ".join(map(str, places))
    if counts.pending:
        again = f"{counts.pending} records are still in {where}; run it again"
        if error is None:
            raise CommandError(ExitCode.UNREACHABLE, f"not done within {connection.timeout:g} s. {again}")
        raise failure_from(error, connection.base_url, again)
    if counts.dead:
        message = f"{counts.dead} records were refused: billing spool status {where} --dead"
        raise CommandError(ExitCode.REFUSED, message)
    free.complain()


async def _flush(connection: Connection, paths: Sequence[Path]) -> tuple[RecorderCounts, BillingError | None]:
    """What became of the records, and why the last attempt failed, where it did."""
    errors: dict[Path, BillingError | None] = {}

    async def flush_one(client: BillingSystemClient, path: Path) -> RecorderCounts:
        def note(event: RecorderEvent) -> None:
            if isinstance(event, AttemptEvent):
                errors[path] = event.error

        async with client.recorder(spool=path, on_event=note, close_timeout=0) as recorder:
            await recorder.flush(connection.timeout)
        return recorder.counts

    async with connection.client(timeout=connection.timeout / 2) as client:  # so that an attempt ends, and says why
        counts = await asyncio.gather(*(flush_one(client, path) for path in paths))
    names = RecorderCounts.__struct_fields__
    total = RecorderCounts(**{name: sum(getattr(each, name) for each in counts) for name in names})
    return total, next((error for error in errors.values() if error is not None), None)


@spool.command(
    cls=Command,
    epilog="""\b
Examples:
  billing spool redrive usage.db && billing spool flush usage.db
  billing spool redrive usage.db --request-id 43ff5bb189ef749d424d9f157365bc6b3c2f69247ad0c1a675e6b494424dabe9""",
)
@_places
@_request_ids
@json_option
def redrive(places: tuple[Path, ...], request_ids: tuple[str, ...], as_json: bool) -> None:
    """Put dead letters back in line, once what made the service refuse them is mended. By default all.

    The next recorder sends them, or `billing spool flush`.
    """
    said = "dead letters are in line again"
    _change(places, lambda found: found.redrive(request_ids or None), _Revived, said, as_json)


@spool.command(
    cls=Command,
    epilog="""\b
Examples:
  billing spool discard usage.db --request-id 43ff5bb189ef749d424d9f157365bc6b3c2f69247ad0c1a675e6b494424dabe9
  billing spool discard /var/lib/app/spool --all""",
)
@_places
@_request_ids
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@json_option
def discard(places: tuple[Path, ...], request_ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Delete dead letters for good. `billing spool status --dead` shows them before."""
    if every == bool(request_ids):
        raise click.UsageError("Give --request-id for those to delete, or --all.")
    said = "dead letters are deleted"
    _change(places, lambda found: found.discard(request_ids or None), _Discarded, said, as_json)


@spool.command(
    cls=Command,
    epilog="""\b
Example:
  billing spool resend /var/lib/app/spool --since 2026-11-01T08:00:00Z && billing spool flush /var/lib/app/spool""",
)
@_places
@click.option(
    "--since",
    callback=instant,
    required=True,
    metavar="TIME",
    help="What was delivered then or later, e.g. 2026-11-01T08:00:00Z; in UTC without an offset.",
)
@json_option
def resend(places: tuple[Path, ...], since: datetime, as_json: bool) -> None:
    """Put delivered records back in line, for a service that lost what it had acknowledged.

    For spools whose recorders had `keep_delivered`. The service counts each record once: it knows again what it did not
    lose. The next recorder sends them, or `billing spool flush`.
    """
    at = in_zone(since) or since
    _change(places, lambda found: found.resend(at), _Resent, "delivered records are in line again", as_json)
