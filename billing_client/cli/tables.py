"""Tables on standard output, for people."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from billing_client.contract.wire import printable

_MANY_ROWS = 1_000
_WIDEST = 100_000  # columns of a file or a pipe, where no line is folded
_GAP = 2
_LEAST_TEXT = 8  # columns in which text can still be read


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, heading: bool = True) -> None:
    """Print a table. Text too wide for the terminal is folded. Numbers and times never are: they would read as others.

    Where they do not fit beside each other, each row is printed as a list.
    """
    rows = [[*map(printable, row)] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    if len(rows) > _MANY_ROWS:
        _print_long([[str(column.header) for column in columns], *rows] if heading else rows, columns)
    elif _least_width(columns, rows, heading) > width:
        _print_lists(columns, rows)
    else:
        _print_folded(columns, rows, heading, width)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print values by name, a line each."""
    longest = max(map(cell_len, facts))
    for name, value in facts.items():
        click.echo(f"{printable(name)}{' ' * (longest - cell_len(name) + _GAP)}{printable(value)}")


def text_column(name: str) -> Column:
    """A column of text, which may be folded."""
    return Column(printable(name), overflow="fold")


def number_column(name: str) -> Column:
    """A column of numbers."""
    return Column(printable(name), overflow="fold", justify="right", no_wrap=True)


def whole_column(name: str) -> Column:
    """A column of text that must not be folded, such as times."""
    return Column(printable(name), overflow="fold", no_wrap=True)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], heading: bool) -> list[int]:
    headers = [str(column.header) if heading else "" for column in columns]
    return [max(map(cell_len, cells)) for cells in zip(headers, *rows, strict=True)]


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], heading: bool) -> int:
    widths = _widths(columns, rows, heading)
    least = [
        width if column.no_wrap else min(width, _LEAST_TEXT) for column, width in zip(columns, widths, strict=True)
    ]
    return sum(least) + _GAP * (len(columns) - 1)


def _print_folded(columns: Sequence[Column], rows: Sequence[Sequence[str]], heading: bool, width: int) -> None:
    for column, natural in zip(columns, _widths(columns, rows, heading), strict=True):
        column.min_width = natural if column.no_wrap else min(natural, _LEAST_TEXT)
    table = Table(*columns, box=None, show_header=heading, pad_edge=False, padding=(0, _GAP, 0, 0))
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(table)
    click.echo(capture.get(), nl=False)


def _print_lists(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as lines, one for each cell that holds something."""
    names = [str(column.header) for column in columns]
    longest = max(map(cell_len, names))
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for name, cell in zip(names, row, strict=True):
            if cell:
                click.echo(f"{name}{' ' * (longest - cell_len(name) + _GAP)}{cell}" if longest else cell)


def _print_long(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """Print a table without folding: 10 µs a row, where rich takes 400."""
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    click.echo("\n".join("  ".join(map(_padded, row, widths, columns)) for row in rows))


def _padded(cell: str, width: int, column: Column) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if column.justify == "right" else cell + space
