"""`billing-service` as an operator meets it: its output and exit codes."""

import os
import signal
import time
from pathlib import Path

from billing_service.__main__ import main
from tests.programs import run_main
from tests.services import ServiceProcess


def postmaster_pid(data_dir: Path) -> int | None:
    """The process of the embedded server on this data, None where it was stopped."""
    file = data_dir / "postmaster.pid"
    return int(file.read_text().split("\n")[0]) if file.exists() else None


def stop_postmaster(data_dir: Path) -> None:
    """End an embedded server that a failed test left behind, and wait for that."""
    while (pid := postmaster_pid(data_dir)) is not None:
        os.kill(pid, signal.SIGQUIT)
        time.sleep(0.1)


def run_process(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and the output of a process that ends by itself."""
    with ServiceProcess(folder, *arguments, environment=environment) as command:
        return command.wait(), command.output


def run_command(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The same of a command that runs within this process."""
    done = run_main(main, *arguments, environment=environment, folder=folder)
    return done.returncode, done.stdout + done.stderr


def failure(folder: Path, *arguments: str, **environment: str) -> str:
    """The one line with which a command that cannot do its work ends, with exit code 1."""
    return _line_of_failure(*run_command(folder, *arguments, **environment))


def failure_of_process(folder: Path, *arguments: str, **environment: str) -> str:
    """The same of a process."""
    return _line_of_failure(*run_process(folder, *arguments, **environment))


def _line_of_failure(code: int, output: str) -> str:
    assert code == 1, output
    lines = output.splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("billing-service: ")
    return lines[0]
