"""The systems that take single records: the service, its ceiling, and its peers."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import platformdirs

from benchmarks.servers import SERVE, Process, server_process

PACKAGES = {"express": "5.3.0", "pg": "8.23.1", "zod": "4.6.7"}
POOL_SIZE = 10


class Missing(Exception):  # noqa: N818 - no error: the system is left out
    """A system cannot run here; says what it lacks."""


class System(NamedTuple):
    """A system by its short name; `prepare` gives the command that serves it, or raises Missing."""

    name: str
    title: str
    prepare: Callable[[], list[str]]
    stores: bool = True


def _uvicorn(app: str, *needed: str) -> Callable[[], list[str]]:
    """A Python server with the options that the service gives its own."""

    def prepare() -> list[str]:
        if absent := [package for package in needed if find_spec(package) is None]:
            raise Missing(f"{' and '.join(absent)} not installed (the extra `bench`)")
        options = ["--loop", "uvloop", "--http", "httptools", "--ws", "none", "--no-access-log", "--no-server-header"]
        options += ["--log-level", "warning", "--port", "PORT"]
        return [sys.executable, "-m", "uvicorn", f"benchmarks.peers.{app}", *options]

    return prepare


def _express() -> list[str]:
    """Install the packages once, in a cache of one's own, since a module is looked for beside the file."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node and npm not installed")
    folder = platformdirs.user_cache_path("billing-benchmarks") / "express"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = msgspec.json.encode({"private": True, "type": "module", "dependencies": PACKAGES})
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_bytes() != manifest:
        (folder / "package.json").write_bytes(manifest)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Missing(f"npm install failed: {done.stderr.strip().splitlines()[-1:]}")
        installed.write_bytes(manifest)
    server = folder / "server.js"
    server.write_bytes((Path(__file__).parent / "peers" / "express" / "server.js").read_bytes())
    return [node, str(server)]


CEILING = [sys.executable, "-m", "benchmarks.peers.ceiling"]
SYSTEMS = (
    System("service", "billing-service", lambda: SERVE),
    System("ceiling", "the service without its database", lambda: CEILING, False),
    System("plain", "one insert a request (Starlette + asyncpg)", _uvicorn("plain_insert:app")),
    System("express", "Express + pg + zod", _express),
    System("fastapi", "FastAPI + SQLAlchemy", _uvicorn("fastapi_sqlalchemy:app", "fastapi", "sqlalchemy", "greenlet")),
    System("workers", "billing-service --workers 2", lambda: [*SERVE, "--workers", "2"]),
)


@contextmanager
def running(name: str, command: Sequence[str], database_url: str, folder: Path) -> Iterator[Process]:
    """Run a system on a database for the block."""
    environment = {
        "DATABASE_URL": database_url,
        "BILLING_POOL_SIZE": str(POOL_SIZE),
        "POOL_SIZE": str(POOL_SIZE),
        "PORT": "PORT",
        "BILLING_PORT": "PORT",
        "NODE_ENV": "production",
    }
    with server_process(name, command, environment, folder) as process:
        yield process
