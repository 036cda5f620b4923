"""`billing-service`: serve and migrate."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import asyncpg
import click
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from billing_client import __version__
from billing_service.app import OPERATIONS, create_app, find_traces
from billing_service.commands.keys import keys
from billing_service.database.embedded import named_or_embedded
from billing_service.database.grants import grant
from billing_service.database.migrations import Migration, MigrationError, check_schema, migrate
from billing_service.database.pool import DatabaseUnavailableError, connect, unavailable_if_away
from billing_service.http.protocol import BoundedHttpProtocol
from billing_service.ledger.verification import verify_ledger
from billing_service.openapi.document import openapi_document
from billing_service.settings import Settings, SettingsError, export_settings, load_settings, share_metrics
from billing_service.telemetry.logs import RequestLog, start_logs

if sys.platform != "win32":
    import resource

_log = logging.getLogger(__name__)
_NOTICE = "billing-service %s, %s, listens on %s, data in %s, API keys %s"
KEEP_ALIVE_SECONDS = 75  # longer than a client keeps an idle connection, so that it is never the service that hangs up
MAX_CONNECTIONS = 65_536
WORKER_SILENCE_SECONDS = 10  # until a worker is taken for hung and replaced; a busy machine is slow to start one


@click.group()
@click.version_option(__version__, prog_name="billing-service")
def cli() -> None:
    """Record billable usage once."""


cli.add_command(keys)


@cli.command()
@click.option("--host", help="Address to listen on.  [BILLING_HOST; default 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [BILLING_PORT; default 3000]")
@click.option("--workers", type=int, help="Number of processes.  [BILLING_WORKERS; default 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the service."""
    settings = load_settings(host=host, port=port, workers=workers)
    with _listening_socket(settings) as listener, named_or_embedded(settings) as (settings, where):
        _prepare_schema(settings)
        request_log = start_logs(settings)
        if settings.log_is_json:
            _log.info(_NOTICE, __version__, settings.env, _url(settings), where, _keys_said(settings))
        else:
            click.echo(_welcome(settings, where))
        _run(settings, listener, request_log)


@cli.command(name="migrate")
@click.option("--grant-to", "role", metavar="ROLE", help="Let this role do what the service does, and no more.")
def migrate_command(role: str | None) -> None:
    """Bring the database's schema up to date."""
    with named_or_embedded(load_settings()) as (settings, where):
        applied = _migrate(settings)
        if role is not None:
            with unavailable_if_away():
                asyncio.run(grant(settings, role))
        count = f"{len(applied)} migration{'' if len(applied) == 1 else 's'} applied"
        click.echo(f"{where}: {count if applied else 'nothing to do'}")
        for migration in applied:
            click.echo(f"  {migration.version:04} {migration.name}")


@cli.command()
def verify() -> None:
    """Recompute every request id and every sum from the records; exit 1 and name what differs."""
    with named_or_embedded(load_settings()) as (settings, where):
        with unavailable_if_away():
            report = asyncio.run(verify_ledger(settings))
        for difference in report.differences:
            click.echo(difference)
        click.echo(f"{where}: {report.records} records, {report.rollups} sums, {len(report.differences)} differences")
    if report.differences:
        sys.exit(1)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    click.echo(msgspec.json.format(openapi_document(OPERATIONS), indent=2))


@contextmanager
def _listening_socket(settings: Settings) -> Iterator[socket.socket]:
    """Take the port before anything else, so that a port in use costs no start of a database."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        fault = (error.strerror or "").partition(" (")[0]
        raise SettingsError(
            f"BILLING_PORT: {settings.port} on {settings.host} cannot be listened on ({fault}); it must be "
            f"a free port: stop what uses it, or choose another, e.g. --port {settings.port % 65535 + 1}"
        ) from error
    with listener:
        listener.set_inheritable(True)
        yield listener


def _prepare_schema(settings: Settings) -> None:
    """Migrate in development; elsewhere an operator does, at a time of their choosing."""
    if settings.env == "development":
        _migrate(settings)
    else:
        with unavailable_if_away():
            asyncio.run(_check(settings))


def _migrate(settings: Settings) -> list[Migration]:
    with unavailable_if_away():
        return asyncio.run(migrate(settings))


async def _check(settings: Settings) -> None:
    connection = await connect(settings)
    try:
        await check_schema(connection)
    finally:
        await connection.close()


def server_config(app: ASGIApp | str, settings: Settings) -> uvicorn.Config:
    """How the application is served; a name of one stands for what makes it, in each process."""
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
    """Serve until told to stop by SIGINT or SIGTERM."""
    make_traces = find_traces(settings)
    several = "billing_service.app:app_from_environment"
    app: ASGIApp | str = several if settings.workers > 1 else create_app(settings, request_log, make_traces())
    config = server_config(app, settings)
    _allow_connections()
    server = uvicorn.Server(config)
    if settings.workers > 1:
        export_settings(settings)
        with TemporaryDirectory(prefix="billing-service-", dir=_memory_folder()) as folder:
            share_metrics(folder)
            Multiprocess(config, sockets=[listener]).run()
    else:
        server.run(sockets=[listener])
        if not server.started:
            sys.exit(3)


def _allow_connections() -> None:
    """Take as many as the system grants: a shell grants 1,024 at first, and idle connections must not use those up."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        granted = MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MAX_CONNECTIONS)
        if soft != resource.RLIM_INFINITY and soft < granted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))


def _memory_folder() -> str | None:
    """Where files cost no disk, and a container may write though the rest of it is read-only; None where there is no
    such place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108 - what goes there is named at random


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _keys_said(settings: Settings) -> str:
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
  API keys     {_keys_said(settings)}

Try next:
  curl {url}/readyz
  curl {url}/customers{key} -H 'Content-Type: application/json' -d '{{"id": "acme", "name": "Acme"}}'
  curl {url}/usage{key} -H 'Content-Type: application/json' \\
    -d '{{"customerId": "acme", "service": "storage", "unitsConsumed": "1.5", "pricePerUnit": "0.02", "eventId": "1"}}'

Stop with Ctrl-C.
"""


def _stop(*_: object) -> None:
    """End in order. uvicorn takes the signals while it serves, and raises them again once it has stopped."""
    raise SystemExit(0)


def main() -> None:
    """Run the command; what an operator can mend ends in one line and exit code 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        cli()
    except (SettingsError, MigrationError) as error:
        sys.exit(f"billing-service: {error}")
    except DatabaseUnavailableError as error:
        sys.exit(f"billing-service: the database cannot be reached: {error}. Check DATABASE_URL and the server.")
    except asyncpg.PostgresError as error:
        sys.exit(f"billing-service: the database refused: {error}")
