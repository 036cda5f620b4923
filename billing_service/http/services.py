"""The parts of the running service, as one typed object that handlers are given. `app` creates it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.http.admission import Admission, BodyBudget
from billing_service.http.auth import Authenticator
from billing_service.http.event_streams import EventStreams
from billing_service.http.sessions import Sessions
from billing_service.http.shutdown import Shutdown
from billing_service.ledger.changes import Changes
from billing_service.ledger.group_commit import GroupCommit
from billing_service.ledger.overviews.keeping import Overviews
from billing_service.ledger.refusals import Refusals
from billing_service.ledger.statements.signing import Signer
from billing_service.ledger.statements.worker import PieceWorker
from billing_service.pace import Pace
from billing_service.settings import Settings
from billing_service.telemetry.gauge_sampler import Sampler
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.request_log import RequestTelemetry
from billing_service.telemetry.tracing import Traces

if TYPE_CHECKING:  # it is imported where a limit is set, see `token_buckets`
    from billing_service.http.limits.rate_limits import RateLimits


class Services(Struct, frozen=True, kw_only=True, eq=False):
    """What a handler may use.

    Attributes:
        settings: The settings of this process.
        pace: How often background work is done.
        database: Connections for everything but single records.
        read_database: Connections for large reads that may be behind: `database`, or that of BILLING_READ_DATABASE_URL.
        clock: Tells the database's time.
        group_commit: Records usage; returns after the commit.
        refusals: Keeps what was refused.
        changes: Tells those who watch what changed.
        event_streams: The streams of those who watch.
        pieces: Prepares the pieces of statements in the background.
        signer: Signs statements.
        authenticator: Finds the caller for an `Authorization` header.
        sessions: Finds the caller for the cookie of a signed-in browser.
        overviews: What the console's first page shows, kept for a moment.
        admission: Limits the requests in progress.
        body_budget: Limits the bytes of request bodies in memory.
        rate_limits: The rate limits; None if no limit is set.
        shutdown: Knows whether this process was told to stop.
        metrics: The Prometheus metrics.
        sampler: Samples the gauges, and exposes all metrics.
        requests: Counts and logs finished requests.
        traces: Makes spans if tracing is on.
        openapi: Makes the OpenAPI document, as JSON.
    """

    settings: Settings
    pace: Pace
    database: Database
    read_database: Database
    clock: Clock
    group_commit: GroupCommit
    refusals: Refusals
    changes: Changes
    event_streams: EventStreams
    pieces: PieceWorker
    signer: Signer
    authenticator: Authenticator
    sessions: Sessions
    overviews: Overviews
    admission: Admission
    body_budget: BodyBudget
    rate_limits: "RateLimits | None"
    shutdown: Shutdown
    metrics: Metrics
    sampler: Sampler
    requests: RequestTelemetry
    traces: Traces
    openapi: Callable[[], bytes]
