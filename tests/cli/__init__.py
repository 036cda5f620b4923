"""The command `billing` against a real service: within the test's process, or as a process of its own."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from billing_client.cli.__main__ import main
from tests.calls import exchange, json_request
from tests.programs import Finished, bare_environment, run_main
from tests.services import Service

UNFIT_FOR_USERS = (
    "Traceback",
    "Exception ignored",
    "ResourceWarning",
    "never retrieved",
    "destroyed but it is pending",
)


def start(
    *arguments: str | Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    cwd: Path | None = None,
    **environment: Any,
) -> "subprocess.Popen[bytes]":
    """Start the command, its output in pipes; no setting comes from the environment of whoever runs the tests."""
    return subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-m", "billing_client.cli", *arguments],
        env=bare_environment() | {"PYTHONUTF8": "1", "COLUMNS": "200"} | environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
    )


def finish(process: "subprocess.Popen[bytes]", given: bytes | None = None) -> Finished:
    """What the command did; whatever happens to it, it shows no traceback and leaves nothing open."""
    with process:
        stdout, stderr = ((output or b"").decode() for output in process.communicate(given))
    return presentable(Finished(process.args, process.returncode, stdout, stderr))


def presentable(done: Finished) -> Finished:
    assert not any(words in done.stderr for words in UNFIT_FOR_USERS), done.stderr
    return done


def billing_process(*arguments: str | Path, given: bytes | None = None, **environment: Any) -> Finished:
    """Run the command to its end as a process; `given` is its standard input."""
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    return finish(start(*arguments, stdin=stdin, **environment), given)


def billing(*arguments: str | Path, **environment: str) -> Finished:
    """Run the command to its end within this process."""
    done = run_main(main, *map(str, arguments), environment={"COLUMNS": "200"} | environment)
    return presentable(done)


async def billing_beside(*arguments: str | Path, **environment: str) -> Finished:
    """Run the command to its end within this process, while this loop goes on."""
    return await asyncio.to_thread(billing, *arguments, **environment)


def failure(finished: Finished, code: int) -> str:
    """The one line in which a command that ends with this code says why; it printed nothing else."""
    assert (finished.returncode, finished.stdout) == (code, ""), finished
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.startswith("billing: ")
    return finished.stderr.removeprefix("billing: ").strip()


def given_customer(service: Service, customer_id: str = "acme") -> None:
    """A customer that the service knows."""
    body = json.dumps({"id": customer_id, "name": "Acme"}).encode()
    exchange(service, json_request("/customers", body)).require(201)


def given_usage(service: Service, *usages: dict[str, Any]) -> list[Any]:
    """Usage that the service has recorded; the records."""
    body = json.dumps({"records": usages}).encode()
    results = exchange(service, json_request("/usage/batch", body)).require(200)["results"]
    assert {result["outcome"] for result in results} <= {"recorded"}
    return [result["record"] for result in results]
