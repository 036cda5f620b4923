"""The command `billing`, run as its users run it: as a process, against a real service."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.calls import exchange, json_request
from tests.services import Service

UNFIT_FOR_USERS = (
    "Traceback",
    "Exception ignored",
    "ResourceWarning",
    "never retrieved",
    "destroyed but it is pending",
)
Finished = subprocess.CompletedProcess[str]


def start(
    *arguments: str | Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    cwd: Path | None = None,
    **environment: Any,
) -> "subprocess.Popen[bytes]":
    """Start the command, its output in pipes; no setting comes from the environment of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    return subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-m", "billing_client.cli", *arguments],
        env=inherited | {"PYTHONUTF8": "1", "COLUMNS": "200"} | environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
    )


def finish(process: "subprocess.Popen[bytes]", given: bytes | None = None) -> Finished:
    """What the command did; whatever happens to it, it shows no traceback and leaves nothing open."""
    with process:
        stdout, stderr = ((output or b"").decode() for output in process.communicate(given))
    assert not any(words in stderr for words in UNFIT_FOR_USERS), stderr
    return Finished(process.args, process.returncode, stdout, stderr)


def billing(*arguments: str | Path, given: bytes | None = None, **environment: Any) -> Finished:
    """Run the command to its end; `given` is its standard input."""
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    return finish(start(*arguments, stdin=stdin, **environment), given)


async def billing_beside(*arguments: str | Path, **environment: Any) -> Finished:
    """Run the command to its end, while this loop goes on."""
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
