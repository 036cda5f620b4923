"""Tables on standard output, for people."""

import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Column, Table

_WIDEST = 100_000  # columns of a file or a pipe, where no line is folded


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, heading: bool = True) -> None:
    """Print a table. A cell too wide for the terminal is folded; cutting off a digit would show a wrong number."""
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
