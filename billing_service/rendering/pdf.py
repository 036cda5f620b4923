"""Renders a statement as PDF: the HTML page, as WeasyPrint (extra `pdf`) prints it.

That takes seconds, and much memory, for many lines: 500 took 150 MB. So one page at a time is printed, in a process of
its own, which leaves the event loop and the memory of the service alone.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.statements.structs import Statement
from billing_service.rendering.statements import render_html

_NOT_INSTALLED = 3  # how the process ends where something is missing
_printing = False


async def render_pdf(statement: Statement[str], seconds: float) -> bytes:
    """The statement as PDF.

    Raises ProblemError: 406 if this service cannot make one, or not in so many seconds; 503 while it prints another.
    """
    if find_spec("weasyprint") is None:
        raise _not_installed()
    with _alone():
        page = await asyncio.to_thread(render_html, statement)
        return await _print(page, seconds)


@contextmanager
def _alone() -> Iterator[None]:
    global _printing
    if _printing:
        detail = "Another statement is being printed. Try again, or ask for HTML and print that."
        raise ProblemError(problem("unavailable", detail), {"Retry-After": "5"})
    _printing = True
    try:
        yield
    finally:
        _printing = False


async def _print(page: bytes, seconds: float) -> bytes:
    program = (sys.executable, "-m", "billing_service.rendering.pdf")
    process = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(seconds):
            pdf, _ = await process.communicate(page)
    except TimeoutError as error:
        detail = "This statement is too long to be printed here. Ask for HTML and print that, or ask for CSV."
        raise ProblemError(problem("not_acceptable", detail)) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _NOT_INSTALLED:
        raise _not_installed()
    if process.returncode:
        raise RuntimeError(f"printing a statement ended with {process.returncode}")
    return pdf


def _not_installed() -> ProblemError:
    detail = (
        "This service makes no PDF. Ask for HTML and print it, or have the operator install Pango and run: "
        "pip install 'billing-system[service,pdf]'"
    )
    return ProblemError(problem("not_acceptable", detail))


def main() -> None:
    """Print the page on standard input."""
    try:
        from weasyprint import HTML  # type: ignore[import-untyped]  # it ships no types
    except (ImportError, OSError):  # OSError: Pango, which it draws with, is not installed
        sys.exit(_NOT_INSTALLED)
    if sys.platform != "win32":
        os.nice(10)
    page = sys.stdin.buffer.read().decode()
    sys.stdout.buffer.write(HTML(string=page, url_fetcher=_nothing).write_pdf())


def _nothing(url: str, *_: Any, **__: Any) -> Any:
    """Refuse to load anything. The page names nothing to load."""
    raise ValueError(f"a statement loads nothing, not {url!r} either")


if __name__ == "__main__":
    main()
