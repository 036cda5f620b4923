"""The ASGI application. `create_app` is the only place where its parts are put together."""

import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from billing_client.contract.wire import ProblemDetails
from billing_service.api import (
    customers,
    docs,
    events,
    exports,
    health,
    issued_statements,
    keys,
    metrics,
    proofs,
    refusals,
    statements,
    summaries,
    usage,
)
from billing_service.console import operations as console
from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.http.admission import Admission, BodyBudget
from billing_service.http.auth import Authenticator
from billing_service.http.dispatch import REFUSAL, Dispatcher, Refusal
from billing_service.http.event_streams import EventStreams
from billing_service.http.services import Services
from billing_service.http.sessions import Sessions
from billing_service.http.shutdown import Shutdown
from billing_service.ledger.changes import Changes
from billing_service.ledger.group_commit import GroupCommit
from billing_service.ledger.overviews.keeping import Overviews
from billing_service.ledger.refusals import Refusals
from billing_service.ledger.statements.signing import load_signer
from billing_service.ledger.statements.worker import PieceWorker
from billing_service.openapi.document import openapi_document
from billing_service.pace import USUAL, Pace
from billing_service.settings import Settings, SettingsError, load_settings, metrics_folder
from billing_service.telemetry.gauge_sampler import Sampler
from billing_service.telemetry.logs import RequestLog, start_logs
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.request_log import RequestInfo, RequestTelemetry
from billing_service.telemetry.tracing import OFF, Traces

if TYPE_CHECKING:
    from billing_service.http.limits.rate_limits import RateLimits

OPERATIONS = [
    *customers.OPERATIONS,
    *usage.OPERATIONS,
    *exports.OPERATIONS,
    *refusals.OPERATIONS,
    *events.OPERATIONS,
    *summaries.OPERATIONS,
    *statements.OPERATIONS,
    *issued_statements.OPERATIONS,
    *proofs.OPERATIONS,
    *keys.OPERATIONS,
    *health.OPERATIONS,
    *metrics.OPERATIONS,
    *docs.OPERATIONS,
    *console.OPERATIONS,
]
MakeGroupCommit = Callable[[Database, int, Metrics, Traces, Clock, Changes], GroupCommit]


@cache
def _openapi() -> bytes:
    """The OpenAPI document. It takes 40 ms, so it is made when it is first asked for."""
    return openapi_document(OPERATIONS)


class ServiceApp(Router):
    """The service as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._answer: ASGIApp = Dispatcher(OPERATIONS, services)
        if services.settings.trusted_proxies is not None:
            self._answer = ProxyHeadersMiddleware(self._answer, services.settings.trusted_proxies)  # type: ignore[arg-type, assignment]  # uvicorn has ASGI types of its own
        super().__init__(lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the dispatcher, which has routes of its own; for the rest do what Starlette does."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.services.settings

    def log_refusal(
        self,
        details: ProblemDetails[str],
        http_request_id: bytes,
        method: str | None,
        seconds: float,
        scope: Scope | None,
    ) -> None:
        """Count and log a request that the HTTP connection refused before it had arrived, once.

        Args:
            details: The response.
            http_request_id: The `X-Request-Id` of the response.
            method: The HTTP method; None if it was not received.
            seconds: How long the request took to arrive.
            scope: The request if it is being answered already: then its own line says how it ended.
        """
        if scope is not None:
            scope[REFUSAL] = Refusal(details, http_request_id)
            return
        info = RequestInfo(
            method=method or "", http_request_id=http_request_id, status=details.status, code=details.code
        )
        self.services.requests.add(info, seconds)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        services = self.services
        _tune_interpreter()
        services.traces.start()
        await services.database.open()
        if services.read_database is not services.database:
            await services.read_database.open()
        await services.sampler.start()
        services.pieces.start()
        services.shutdown.watch()
        services.changes.note_start()
        try:
            yield
        finally:
            await services.pieces.stop()
            await services.group_commit.drain(services.settings.database_timeout)
            await services.event_streams.close()
            await services.refusals.drain()
            await services.changes.drain()
            await services.authenticator.drain()
            await services.overviews.close()
            await services.sampler.stop()
            if services.rate_limits is not None:
                await services.rate_limits.close()
            if services.read_database is not services.database:
                await services.read_database.close()
            await services.database.close()
            services.requests.flush()  # by now requests that were cut off have ended, too
            await services.traces.stop()


def create_app(
    settings: Settings,
    request_log: RequestLog | None = None,
    traces: Traces = OFF,
    make_group_commit: MakeGroupCommit = GroupCommit,
    pace: Pace = USUAL,
) -> ServiceApp:
    """Put the service together.

    Args:
        settings: The settings. The database they name is connected to when it is first needed.
        request_log: Where requests are logged; None to log none.
        traces: Makes the spans; by default none.
        make_group_commit: Creates the part that records usage; a test or a benchmark may replace it.
        pace: How often background work is done; tests shorten it.
    """
    database = Database(settings)
    read_database = database if settings.read_database_url is None else Database(settings.of_reads)
    clock = Clock()
    metrics = Metrics(metrics_folder())
    requests = RequestTelemetry(metrics, request_log)
    changes = Changes(database, pace)
    group_commit = make_group_commit(database, settings.queue_records, metrics, traces, clock, changes)
    authenticator = Authenticator(database, key_required=settings.key_required, clock=clock, pace=pace)
    shutdown = Shutdown(settings.drain_delay)
    services = Services(
        settings=settings,
        pace=pace,
        database=database,
        read_database=read_database,
        clock=clock,
        group_commit=group_commit,
        refusals=Refusals(database, settings, metrics, clock, changes, pace),
        changes=changes,
        event_streams=EventStreams(database, shutdown, settings.max_event_streams, pace),
        authenticator=authenticator,
        pieces=PieceWorker(database, clock, settings.workers, pace),
        signer=load_signer(settings),
        sessions=Sessions(database, authenticator, clock),
        overviews=Overviews(database, clock),
        admission=Admission(settings.max_requests),
        body_budget=BodyBudget(settings.max_receiving_bytes),
        rate_limits=_rate_limits(settings),
        shutdown=shutdown,
        metrics=metrics,
        sampler=Sampler(
            metrics, requests, group_commit, database, clock, None if read_database is database else read_database
        ),
        requests=requests,
        traces=traces,
        openapi=_openapi,
    )
    return ServiceApp(services)


def _rate_limits(settings: Settings) -> "RateLimits | None":
    if not any(settings.rates.values()):
        return None
    from billing_service.http.limits.rate_limits import RateLimits  # see `token_buckets`

    return RateLimits(settings)


def _tune_interpreter() -> None:
    """Exclude objects that live as long as the process from garbage collection, and collect less often."""
    # Requests create no reference cycles. With 64 connections this lowered CPU per request from 116 to 98 µs, and the
    # 99th percentile from 40 to 22 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # A thread that renders a page holds the interpreter for so long each time that the event loop wants it. With the
    # default of 5 ms a small write beside it waited 20.
    sys.setswitchinterval(0.0005)


def find_traces(settings: Settings) -> Callable[[], Traces]:
    """A factory of the traces that the settings ask for. Raises SettingsError if OpenTelemetry is not installed."""
    if settings.traces == "off":
        return lambda: OFF
    try:
        from billing_service.telemetry.otel import export_traces
    except ImportError as error:
        raise SettingsError(
            f"BILLING_TRACES: OpenTelemetry is not installed ({error.name} is missing); "
            "run: pip install 'billing-system[service,otel]', or set it to off"
        ) from error
    return export_traces


def app_from_environment() -> ServiceApp:
    """Create the application from the environment. Each worker process calls this."""
    settings = load_settings()
    return create_app(settings, start_logs(settings), find_traces(settings)())
