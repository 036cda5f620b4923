"""A command's `main()`, run within the test's process.

A process of its own costs up to a second of CPU time, most of it imports. So each command runs as one in some test, as
does all that depends on a process: signals, pipes, standard input, settings of the interpreter. The others run here.
"""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

Finished = subprocess.CompletedProcess[str]
# For the environment of a process whose coverage is not measured, which takes it a third more CPU time: it is killed
# before it can tell, or it runs a program that is not ours.
UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}


def bare_environment() -> dict[str, str]:
    """The test's environment without the project's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("BILLING_", "DATABASE"))}


def run_main(
    main: Callable[[], None], *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Finished:
    """Run `main` with these arguments as a process would, and tell how it ended and what it wrote.

    `environment` is added to the test's own, without the project's settings; `folder` is where it runs. What it leaves
    open is a ResourceWarning, which fails the test.
    """
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _signals_kept(),
        _logging_kept(),
        _asyncio_complaints(stderr),
    ):
        patch.setattr(sys, "argv", ["command", *arguments])
        for name in os.environ.keys() - bare_environment().keys():
            patch.delenv(name)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        if folder is not None:
            patch.chdir(folder)
        code = _exit_code(main)
    return Finished(arguments, code, *(_text(stream) for stream in (stdout, stderr)))


def _exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put the handlers of signals back; only the main thread can set any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Put the root logger back, which a command sets up for its own process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _asyncio_complaints(stream: io.TextIOWrapper) -> Iterator[None]:
    """Write to the stream what asyncio says of tasks and connections that were left to themselves."""
    handler = logging.StreamHandler(stream)
    logging.getLogger("asyncio").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
