"""Tables on standard output, for people."""

import sys
from collections.abc import Iterable, Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from billing_client.contract.wire import printable

_MANY_ROWS = 1_000
_WIDEST = 100_000  # columns of a file or a pipe, where no line is folded


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, heading: bool = True) -> None:
    """Print a table. A cell too wide for the terminal is folded; cutting off a digit would show a wrong number."""
    rows = [[*map(printable, row)] for row in rows]
    if len(rows) > _MANY_ROWS:
        _print_long([[str(column.header) for column in columns], *rows] if heading else rows, columns)
        return
    table = Table(*columns, box=None, show_header=heading, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _WIDEST
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(table)
    click.echo(capture.get(), nl=False)


def _print_long(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """Print a table without folding: 10 µs a row, where rich takes 400."""
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    click.echo("\n".join("  ".join(map(_padded, row, widths, columns)) for row in rows))


def _padded(cell: str, width: int, column: Column) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if column.justify == "right" else cell + space


def text_column(name: str) -> Column:
    return Column(printable(name), overflow="fold")


def number_column(name: str) -> Column:
    return Column(printable(name), overflow="fold", justify="right")
