"""What the command prints."""

import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

_WIDEST = 100_000  # for a file or a pipe, which have no edge at which to fold


def plain(value: Any) -> Any:
    """A value as JSON has it: camelCase, decimals in plain notation."""
    builtin = msgspec.to_builtins(value, builtin_types=(Decimal,))
    return _without_exponents(builtin)


def _without_exponents(value: Any) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case dict():
            return {name: _without_exponents(member) for name, member in value.items()}
        case list():
            return [_without_exponents(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One line of JSON, on standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(plain(value)) + b"\n")


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
