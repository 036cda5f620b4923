"""`billing-service serve`: takes the port, finds the database and runs the HTTP server (uvicorn)."""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import click
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from billing_client import __version__
from billing_service.app import create_app, find_traces
from billing_service.commands.migrate import apply_migrations
from billing_service.database.embedded import named_or_embedded
from billing_service.database.migrations import check_schema
from billing_service.database.pool import connected, unavailable_if_away
from billing_service.http.connections.protocol import BoundedHttpProtocol
from billing_service.settings import Settings, SettingsError, export_settings, load_settings, share_metrics
from billing_service.telemetry.logs import RequestLog, start_logs

if sys.platform != "win32":
    import resource

_log = logging.getLogger(__name__)
_NOTICE = "billing-service %s, %s, listens on %s, data in %s, API keys %s"
_SEVERAL_WORKERS = "billing_service.app:app_from_environment"
KEEP_ALIVE_SECONDS = 75  # longer than clients keep an idle connection, so that the client closes it, not the service
MAX_CONNECTIONS = 65_536
ACCEPTS_AT_ONCE = 16
WORKER_SILENCE_SECONDS = 10  # then a worker counts as hung and is replaced; a busy machine is slow to start one


@click.command(name="serve")
@click.option("--host", help="Address to listen on.  [BILLING_HOST; default 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [BILLING_PORT; default 3000]")
@click.option("--workers", type=int, help="Number of processes.  [BILLING_WORKERS; default 1]")
def command(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the service."""
    settings = load_settings(host=host, port=port, workers=workers)
    with _listening_socket(settings) as listener, named_or_embedded(settings) as (settings, where):
        _prepare_schema(settings)
        request_log = start_logs(settings)
        if settings.log_is_json:
            _log.info(_NOTICE, __version__, settings.env, _url(settings), where, _key_policy(settings))
        else:
            click.echo(_welcome(settings, where))
        _run(settings, listener, request_log)


@contextmanager
def _listening_socket(settings: Settings) -> Iterator[socket.socket]:
    """Listen before anything else is started, so that a port in use is reported before a database is started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver is asked for
        raise SettingsError(_why_not_listening(settings, error)) from error
    with listener:
        listener.set_inheritable(True)
        yield listener


def listeners_of(listener: socket.socket) -> list[socket.socket]:
    """The socket ACCEPTS_AT_ONCE times.

    uvloop accepts one connection of each listener between two rounds of work. With one alone, whoever opens connections
    faster than the service has rounds keeps all others waiting.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTS_AT_ONCE - 1))]


def _why_not_listening(settings: Settings, error: OSError | UnicodeError) -> str:
    """Which of the two settings is at fault, and what to do about it."""
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
        return (
            f"BILLING_PORT: {settings.port} on {settings.host} cannot be listened on ({_reason(error)}); it must be "
            f"a free port: stop what uses it, or choose another, e.g. --port {settings.port % 65535 + 1}"
        )
    return (
        f"BILLING_HOST: {settings.host!r} cannot be listened on ({_reason(error)}); it must be an address of this "
        "machine: 127.0.0.1 for callers on it alone, 0.0.0.0 for all of its IPv4 addresses"
    )


def _reason(error: OSError | UnicodeError) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or "not a host name").partition(" (")[0]


def _prepare_schema(settings: Settings) -> None:
    """Migrate in development. Elsewhere an operator does, at a time of their choosing, and the schema is checked."""
    if settings.env == "development":
        apply_migrations(settings)
    else:
        with unavailable_if_away():
            asyncio.run(_check(settings))


async def _check(settings: Settings) -> None:
    async with connected(settings) as connection:
        await check_schema(connection)


def server_config(app: ASGIApp | str, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application.

    `app` is an application, or the import path of a function that makes one in each worker process.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=settings.log_level if settings.log_is_json else "warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application sees to them
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_worker_healthcheck=WORKER_SILENCE_SECONDS,
    )


def _run(settings: Settings, listener: socket.socket, request_log: RequestLog) -> None:
    """Serve until SIGINT or SIGTERM."""
    make_traces = find_traces(settings)
    app = _SEVERAL_WORKERS if settings.workers > 1 else create_app(settings, request_log, make_traces())
    config = server_config(app, settings)
    _allow_connections()
    server = uvicorn.Server(config)
    if settings.workers > 1:
        export_settings(settings)
        with TemporaryDirectory(prefix="billing-service-", dir=_memory_folder()) as folder:
            share_metrics(folder)
            Multiprocess(config, sockets=listeners_of(listener)).run()
    else:
        server.run(sockets=listeners_of(listener))
        if not server.started:
            sys.exit(3)


def _allow_connections() -> None:
    """Raise the limit of open files as far as the system allows, up to MAX_CONNECTIONS.

    A shell starts with 1,024, which idle connections alone would use up.
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        granted = MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MAX_CONNECTIONS)
        if soft != resource.RLIM_INFINITY and soft < granted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))


def _memory_folder() -> str | None:
    """A folder in memory, writable even in a container with a read-only file system; None if there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108 - the folder made in it has a random name


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _key_policy(settings: Settings) -> str:
    if settings.key_required:
        return "needed; make one: billing-service keys create --name NAME --scope admin"
    return "not needed in development; one that is sent is checked"


def _welcome(settings: Settings, where: str) -> str:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host)  # noqa: S104 - compared, not listened on
    url = _url(msgspec.structs.replace(settings, host=reached or settings.host))
    key = ' -H "Authorization: Bearer $BILLING_API_KEY"' if settings.key_required else ""
    return f"""
billing-service {__version__}, {settings.env}
  listens on   {_url(settings)}
  data         {where}
  API keys     {_key_policy(settings)}

Try next:
  curl {url}/readyz
  curl {url}/customers{key} -H 'Content-Type: application/json' -d '{{"id": "acme", "name": "Acme"}}'
  curl {url}/usage{key} -H 'Content-Type: application/json' \\
    -d '{{"customerId": "acme", "service": "storage", "unitsConsumed": "1.5", "pricePerUnit": "0.02", "eventId": "1"}}'

Stop with Ctrl-C.
"""
