"""The service, run for real: in a thread on a socket of its own, or as a process of its own."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple, ParamSpec, Self

import uvicorn

from billing_service.app import create_app
from billing_service.http.connections.protocol import BoundedHttpProtocol
from billing_service.pace import Pace
from billing_service.settings import Settings
from billing_service.telemetry.logs import RequestLog
from billing_service.telemetry.tracing import OFF, Traces
from tests.programs import bare_environment

STARTUP_SECONDS = 60
# What changed and what was refused is told soon.
HURRIED = Pace(change_seconds=0.02, change_pause_seconds=0.05, poll_seconds=0.05, refusal_seconds=0.05)
P = ParamSpec("P")


class Service(NamedTuple):
    """A service that runs: `url` has no slash at its end."""

    url: str
    host: str
    port: int
    settings: Settings


@contextmanager
def running_service(
    settings: Settings,
    request_log: RequestLog | None = None,
    traces: Traces = OFF,
    protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol,
    pace: Pace = HURRIED,
) -> Iterator[Service]:
    """Serve on a free port for the block, from a thread with a loop of its own; at the end it stops as on SIGTERM."""
    config = uvicorn.Config(
        create_app(settings, request_log, traces, pace=pace),
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # as `billing-service serve`: the application sees to them
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        host, port = listener.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=f"service on {port}")
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the service did not start; its log says why")
                time.sleep(0.005)
            yield Service(f"http://{host}:{port}", host, port, settings)
        finally:
            server.should_exit = True
            thread.join()


class ServiceProcess:
    """A `billing-service` process, or one of another module, with its output in a file; `environment` is added to the
    test's own.

    As a context manager it leaves no process behind: what still runs at the end is stopped.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        module: str = "billing_service",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output_file = folder / f"output-{time.monotonic_ns()}.txt"
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,  # where no .env lies, unless the test put it there
                env=bare_environment() | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STARTUP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait(self, seconds: float = STARTUP_SECONDS) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def terminate(self, number: int = signal.SIGTERM, seconds: float = STARTUP_SECONDS) -> int:
        """Ask it to stop, and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash would: without a chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def await_ready(self, port: int) -> None:
        """Wait until it answers that it is ready. Raises RuntimeError with its output where it ends instead."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while get_status("127.0.0.1", port, "/readyz") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service is not ready (exit code {self.process.poll()}):\n{self.output}")
            time.sleep(0.05)


class ServeProcess(NamedTuple):
    """A `billing-service serve` process that is ready at `url`."""

    url: str
    host: str
    port: int
    service: ServiceProcess


@contextmanager
def serve_process(
    folder: Path, database_url: str | None, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[ServeProcess]:
    """Run `billing-service serve` on a free port for the block; it is stopped at the end unless it has ended before.

    Without a database URL it runs on the embedded server, with its data in BILLING_DATA_DIR.
    """
    port = free_port()
    variables = dict(environment or {}) | ({"DATABASE_URL": database_url} if database_url else {})
    with ServiceProcess(folder, "serve", "--port", str(port), *arguments, environment=variables) as service:
        service.await_ready(port)
        yield ServeProcess(f"http://127.0.0.1:{port}", "127.0.0.1", port, service)


async def until(holds: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
    """Wait until something holds of another process. Raises TimeoutError."""
    async with asyncio.timeout(STARTUP_SECONDS):
        while not await asyncio.to_thread(holds, *arguments, **named):  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(0.02)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def get_status(host: str, port: int, path: str) -> int | None:
    """The status of a GET, None where nothing answers."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
