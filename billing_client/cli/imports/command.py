"""`billing import`: a file of usage, each line once.

No note is kept of how far an import has come: the service knows. Started again it sends everything again, which is
recorded once by its request id, so it also finds what a service put back to an earlier state has lost.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing, suppress
from datetime import tzinfo
from pathlib import Path
from typing import Any, TextIO, cast

import click
from msgspec import Struct, structs

from billing_client import (
    BillingError,
    BillingSystemClient,
    CustomerExistsError,
    PayloadTooLargeError,
    PermissionDeniedError,
    Usage,
    UsageOutcome,
    ValidationError,
)
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, failure_from, needs_extra
from billing_client.cli.imports.detection import NAMES, InputFormat, is_parquet, read_file
from billing_client.cli.imports.lines import InputError, SourceRecord, TextLines, UsageSource
from billing_client.cli.imports.progress import EVERY, Show, progress
from billing_client.cli.imports.report import exit_code, facts_of, print_report
from billing_client.cli.imports.totals import REMEMBERED_CUSTOMERS, ImportTotals, LeftoverFile
from billing_client.cli.options import Connection, connection_options, json_option, pairs, with_options, zone_option
from billing_client.cli.output import print_json
from billing_client.contract.wire import MAX_BATCH_RECORDS

NO_USAGE = Usage(customer_id="", service="", units_consumed="", price_per_unit="")  # the client rejects it, unsent
FIRST_TIMEOUT = 10.0
AGAIN = "Run it again: what is recorded will not be recorded twice"
SMALLER = "Run it again with a smaller --batch-size"


class ImportOptions(Struct, frozen=True, kw_only=True):
    """See the options of the command."""

    makes_customers: bool
    dry_run: bool
    with_event_ids: bool
    batch_size: int


class Import:
    """An import under way."""

    def __init__(self, format_: UsageSource, totals: ImportTotals, options: ImportOptions) -> None:
        self.totals = totals
        self._format = format_
        self._options = options
        self._sent: deque[SourceRecord] = deque()
        self._customers: set[str] = set()

    async def run(self, connection: Connection, show: Show, file: TextIO) -> None:
        """Record every line. Raises InputError, BillingError."""
        first = min(FIRST_TIMEOUT, connection.timeout)
        async with connection.client(timeout=first, max_attempts=2) as client:
            with suppress(PermissionDeniedError):  # it answers, and a key that may only write is enough
                await anext(client.customers(page_size=1), None)  # where there is no service, say so at once
        async with connection.client(max_attempts=1_000) as client, aclosing(self._usages(client)) as usages:
            outcomes = client.record_usages(
                usages, batch_size=self._options.batch_size, dry_run=self._options.dry_run, repeatable=True
            )
            async with aclosing(outcomes):
                async for outcome in outcomes:  # in the order of what was sent
                    await self._settle(client, self._sent.popleft(), outcome)
                    if self.totals.counts.read % EVERY == 0:
                        show(_position(file), self.totals.counts.read)
        show(_position(file), self.totals.counts.read)

    async def _usages(self, client: BillingSystemClient) -> AsyncGenerator[Usage, None]:
        """The usage of each line, whose customer then exists; the line itself is put into what was sent."""
        for line in self._format:
            usage = line.usage or NO_USAGE
            if not self._options.with_event_ids:
                usage = structs.replace(usage, event_id=None)
            if line.usage is not None and self._options.makes_customers and not self._options.dry_run:
                try:
                    await self._make_customer(client, usage.customer_id, line.customer_name)
                except ValidationError as error:
                    line, usage = structs.replace(line, fault=error.detail), NO_USAGE
            self._sent.append(line)
            yield usage

    async def _make_customer(self, client: BillingSystemClient, customer_id: str, name: str | None) -> None:
        if customer_id in self._customers:
            return
        try:
            with suppress(CustomerExistsError):
                await client.create_customer(customer_id=customer_id, name=name or customer_id)
        except PermissionDeniedError as error:
            error.detail = f"{error.detail.rstrip('.')}: if all customers are there, use --no-create-customers"
            raise
        if len(self._customers) == REMEMBERED_CUSTOMERS:
            self._customers.clear()
        self._customers.add(customer_id)

    async def _settle(self, client: BillingSystemClient, line: SourceRecord, outcome: UsageOutcome) -> None:
        record = outcome.record
        if not line.is_voided or self._options.dry_run or record is None or record.voided_at is not None:
            self.totals.add(line, outcome)
        elif outcome.outcome == "duplicate":  # another call's record: it may be owed
            self.totals.reject(line, "it is voided in the file, but not on the server")
        else:
            reason = "it was voided in the ledger from which it was imported"
            await client.void_usage(customer_id=record.customer_id, request_id=record.request_id, reason=reason)
            self.totals.counts.voided += 1
            self.totals.add(line, outcome)


def _position(file: TextIO) -> int:
    return file.buffer.tell() if file.seekable() else 0


@click.command(
    "import",
    cls=Command,
    epilog="""\b
Examples:
  billing import bill.csv --dry-run
  billing import bill.csv
  billing import usage.ndjson --create-customers --json
  gzip -dc export.ndjson.gz | billing import -""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "format_", type=click.Choice(NAMES), help="[default: what the file says of itself]")
@click.option("--dry-run", is_flag=True, help="Record nothing: name what is missing on the server.")
@with_options(
    click.option(
        "--create-customers/--no-create-customers",
        default=None,
        help="Create customers that are not there.  [default: with FOCUS, which names them]",
    ),
    click.option(
        "--timezone",
        "zone",
        callback=zone_option,
        metavar="ZONE",
        help="IANA zone of times without an offset.  [default: such lines are refused; with FOCUS, UTC]",
    ),
    click.option(
        "--dimension",
        "dimensions",
        multiple=True,
        callback=pairs,
        metavar="NAME=COLUMN",
        help="Take a dimension from a column, such as region=RegionId; repeatable. For CSV.",
    ),
    click.option(
        "--without-event-ids",
        is_flag=True,
        help="A dry run: what would be lost if no line had an event id.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, MAX_BATCH_RECORDS),
        default=1_000,
        metavar="N",
        show_default=True,
        help="Lines a call.",
    ),
)
@connection_options(timeout=60)
@json_option
def import_(
    connection: Connection,
    file: Path,
    format_: InputFormat | None,
    dry_run: bool,
    create_customers: bool | None,
    zone: tzinfo | None,
    dimensions: dict[str, str],
    without_event_ids: bool,
    batch_size: int,
    as_json: bool,
) -> None:
    """Record each line of FILE, once; - is standard input.

    FILE is a cloud bill in FOCUS 1.0 CSV, what `billing export` wrote, or usage as CSV, NDJSON or Parquet that is named
    as in the API: customerId, service, unitsConsumed, pricePerUnit, eventId, occurredAt, dimensions.

    Run it as often as you like: after Ctrl-C or a fault the same command goes on, and nothing is recorded twice. Lines
    that are refused go to a file beside FILE, bill.rejected.csv, which can be corrected and imported in its turn; with
    --dry-run those that the server does not have go to bill.missing.csv.
    """
    if is_parquet(file, format_):
        format_ = "parquet"
    opened = _open_parquet(file, zone) if format_ == "parquet" else _open(file)
    with opened as text, closing(TextLines(text)) as lines:
        try:
            read = read_file(lines, format_, zone, dimensions)
        except InputError as error:
            raise CommandError(ExitCode.REFUSED, f"{file}: {error}") from error
        makes_customers = read.names_customers if create_customers is None else create_customers
        options = ImportOptions(
            makes_customers=makes_customers,
            dry_run=dry_run or without_event_ids,
            with_event_ids=not without_event_ids,
            batch_size=batch_size,
        )
        missing = (
            LeftoverFile(_beside(file, "missing", read.suffix), read) if dry_run and not without_event_ids else None
        )
        rejected = LeftoverFile(_beside(file, "rejected", read.suffix), read)
        totals = ImportTotals(rejected, missing, makes_customers and options.dry_run)
        _run(Import(read, totals, options), connection, text)
    if as_json:
        print_json(facts_of(totals, options.dry_run))
    else:
        print_report(totals, options.dry_run)
    raise click.exceptions.Exit(exit_code(totals))


def _run(import_: Import, connection: Connection, text: TextIO) -> None:
    """Run an import to its end. Raises CommandError."""
    totals, whole = import_.totals, False
    try:
        with progress(_size(text)) as show:
            asyncio.run(import_.run(connection, show, text))
        whole = True
    except BillingError as error:
        again = SMALLER if isinstance(error, PayloadTooLargeError) else AGAIN
        failure = failure_from(error, connection.base_url, again=again)
        raise _stopped(totals, failure.code, str(failure), dict(failure.facts)) from error
    except KeyboardInterrupt as error:
        raise _stopped(totals, ExitCode.INTERRUPTED, AGAIN, {}) from error
    except InputError as error:
        raise _stopped(totals, ExitCode.REFUSED, str(error), {}) from error
    finally:
        totals.close(whole)


def _stopped(totals: ImportTotals, code: ExitCode, message: str, facts: dict[str, Any]) -> CommandError:
    counts = structs.asdict(totals.counts)
    return CommandError(code, f"stopped after {totals.counts.read} lines. {message}.", facts | counts)


def _open(file: Path) -> TextIO:
    """The text of a file, or of standard input for `-`; what is not UTF-8 in it is kept."""
    source: Any = sys.stdin.fileno() if str(file) == "-" else file
    return open(source, encoding="utf-8-sig", errors="surrogateescape", newline="", closefd=str(file) != "-")


def _open_parquet(file: Path, zone: tzinfo | None) -> TextIO:
    """The rows of a Parquet file as lines of NDJSON."""
    if str(file) == "-":
        raise CommandError(ExitCode.USAGE, "Parquet is read from its end: give a file in the place of -")
    with needs_extra("parquet"):
        from billing_client.cli.imports.usage_parquet import LinesAsText, lines_of
    return cast("TextIO", LinesAsText(lines_of(file, zone)))


def _size(file: TextIO) -> int | None:
    return os.fstat(file.fileno()).st_size if file.seekable() else None


def _beside(file: Path, kind: str, suffix: str) -> Path:
    """The path of a file of left lines: beside the file where one may write there, else in the working folder."""
    stem = "usage" if str(file) == "-" else file.stem
    folder = file.parent if os.access(file.parent, os.W_OK) else Path()
    return folder / f"{stem}.{kind}.{suffix}"
