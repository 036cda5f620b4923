"""How far a command has come, shown on a terminal and nowhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

EVERY = 256
Show = Callable[[int, int], None]


@contextmanager
def progress(total: int | None) -> Iterator[Show]:
    """A bar for the block; gives what shows a position of `total` (bytes; None where nobody knows), and lines."""
    if not sys.stderr.isatty():
        yield lambda position, lines: None
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[lines]} lines"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, lines=0)
        yield lambda position, lines: bar.update(task, completed=position, lines=lines)
