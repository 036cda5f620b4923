"""`billing export`: every record, as NDJSON, CSV or Parquet."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import IO, Literal, get_args

import click
from msgspec import Struct

from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, needs_extra
from billing_client.cli.options import Connection, connection_options, filter_option, in_zone, json_option, span_options
from billing_client.cli.output import harmless_json, print_json
from billing_client.contract.wire import printable

Format = Literal["ndjson", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[str, Format] = {
    "": "ndjson",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
}


class _Selection(Struct, frozen=True):
    customer_id: str | None
    service: str | None
    dimensions: dict[str, str]
    start: datetime | None
    end: datetime | None


class _Exported(Struct, frozen=True):
    records: int
    bytes: int
    file: str


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  billing export | head
  billing export --customer acme --from 2026-11-01 -o november.csv
  billing export -o usage.parquet
  billing export --base-url http://old:3000 | billing import - --create-customers""",
)
@click.option("--customer", "customer_id", metavar="ID", help="One customer.  [default: all]")
@click.option("--service", metavar="NAME", help="One service.  [default: all]")
@filter_option
@span_options
@click.option("--format", "format_", type=click.Choice(FORMATS), help="[default: as the FILE is named, else ndjson]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write; the file appears once it is whole.  [default: standard output]",
)
@connection_options(timeout=10)
@json_option
def export(
    connection: Connection,
    customer_id: str | None,
    service: str | None,
    dimensions: dict[str, str],
    start: datetime | None,
    end: datetime | None,
    format_: Format | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write all records, voided ones too, as the service keeps them.

    `billing import` reads what this writes. --json says what was written to FILE as JSON.
    """
    selection = _Selection(customer_id, service, dimensions, in_zone(start), in_zone(end))
    chosen = format_ or _format_of(output)
    if output is None:
        if chosen == "parquet":
            raise click.BadParameter("Parquet needs a file: give -o FILE.", param_hint="--format")
        asyncio.run(_export(connection, selection, chosen, sys.stdout.buffer))
        return
    write = _export_parquet if chosen == "parquet" else _export
    with whole_file(output) as file:
        records, size = asyncio.run(write(connection, selection, chosen, file))
    exported = _Exported(records, size, str(output))
    if as_json:
        print_json(exported)
    else:
        click.echo(f"{exported.records} records in {exported.file}")


def _format_of(output: Path | None) -> Format:
    """The format that a file is named after."""
    suffix = "" if output is None else output.suffix.lower()
    if suffix not in _SUFFIXES:
        known = ", ".join(name for name in _SUFFIXES if name)
        raise click.BadParameter(
            f"{suffix} says no format: end it in one of {known}, or give --format.", param_hint="-o"
        )
    return _SUFFIXES[suffix]


async def _lines(
    connection: Connection, selection: _Selection, format_: Literal["ndjson", "csv"]
) -> AsyncGenerator[bytes, None]:
    async with connection.client() as client:
        exported = client.export_lines(
            format=format_,
            customer_id=selection.customer_id,
            service=selection.service,
            dimensions=selection.dimensions,
            start=selection.start,
            end=selection.end,
        )
        async with aclosing(exported) as lines:
            async for line in lines:
                yield line


async def _export(connection: Connection, selection: _Selection, format_: Format, file: IO[bytes]) -> tuple[int, int]:
    """Write the export; its records and bytes. No cell holds a line break: each line is a record or the heading."""
    count = size = 0
    on_terminal = file.isatty()
    name: Literal["ndjson", "csv"] = "csv" if format_ == "csv" else "ndjson"
    async with aclosing(_lines(connection, selection, name)) as lines:
        async for line in lines:
            file.write(_shown(line, name) if on_terminal else line)
            count += 1
            size += len(line)
    file.flush()
    return count - (name == "csv"), size


async def _export_parquet(connection: Connection, selection: _Selection, _: Format, file: IO[bytes]) -> tuple[int, int]:
    """Write the export as Parquet; its records and bytes."""
    with needs_extra("parquet"):
        from billing_client.cli.imports.usage_parquet import ParquetExport
    count = 0
    try:
        with ParquetExport(file) as parquet:
            async with aclosing(_lines(connection, selection, "ndjson")) as lines:
                async for line in lines:
                    parquet.add(line)
                    count += 1
    except (
        ValueError,
        RecursionError,
    ) as error:  # what the service sent is no record, or has members of a later version
        raise CommandError(
            ExitCode.UNREACHABLE, f"a line of the export cannot be written as Parquet: {error}"
        ) from error
    file.flush()
    return count, file.tell()


def _shown(line: bytes, format_: Literal["ndjson", "csv"]) -> bytes:
    """A line as a terminal may have it: without what it would obey or hide. JSON stays the same JSON."""
    text = line.decode(errors="backslashreplace").rstrip("\r\n")
    return ((harmless_json(text) if format_ == "ndjson" else printable(text)) + "\n").encode()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears, or takes the place of the one of this name, only once it is written and safe on disk."""
    path = path.resolve()
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe takes what it is given
        with path.open("wb") as device:
            yield device
        return
    part = path.with_name(f".{path.name}.{token_hex(8)}.part")  # a process that was killed may have left one
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
