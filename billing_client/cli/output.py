"""What the command prints."""

import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from billing_client.contract.amounts import plain

_WIDEST = 100_000  # for a file or a pipe, which have no edge at which to fold


def to_json(value: Any) -> bytes:
    """A value as JSON, on the wire's terms: camelCase, decimals as strings in plain notation."""
    return msgspec.json.encode(_in_plain_notation(msgspec.to_builtins(value, builtin_types=(Decimal,))))


def _in_plain_notation(value: Any) -> Any:
    match value:
        case Decimal():
            return plain(value)
        case dict():
            return {name: _in_plain_notation(member) for name, member in value.items()}
        case list():
            return [_in_plain_notation(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One line of JSON, on standard output."""
    sys.stdout.buffer.write(to_json(value) + b"\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, heading: bool = True) -> None:
    """A table, on standard output; folded where the terminal is too narrow, since a digit cut off would be a lie."""
    table = Table(*columns, box=None, show_header=heading, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _WIDEST
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(table)
    click.echo(capture.get(), nl=False)


def text_column(name: str) -> Column:
    return Column(name, overflow="fold")


def number_column(name: str) -> Column:
    return Column(name, overflow="fold", justify="right")
