"""The parts of a running service that handlers are given: one typed object, put together in `app`."""

from msgspec import Struct

from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.http.admission import Admission, BodyBudget
from billing_service.http.auth import Authenticator
from billing_service.http.rate_limits import RateLimits
from billing_service.http.shutdown import Shutdown
from billing_service.ledger.group_commit import GroupCommit
from billing_service.settings import Settings
from billing_service.telemetry.gauge_sampler import Sampler
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.request_log import RequestTelemetry
from billing_service.telemetry.tracing import Traces


class Services(Struct, frozen=True, kw_only=True, eq=False):
    """What a handler may use.

    Attributes:
        settings: The settings of this process.
        database: Connections for everything but single records.
        clock: The time, by the database's clock.
        group_commit: Records usage; answers after the commit.
        authenticator: Finds the caller behind an API key.
        admission: Bounds the requests that are worked on at once.
        body_budget: Bounds the bytes of request bodies that are held at once.
        rate_limits: The rate limits; None where no limit is set.
        shutdown: Whether this process was told to stop.
        metrics: What is counted and timed.
        sampler: Samples gauges, and exposes all metrics.
        requests: Counts and logs requests that have ended.
        traces: Spans, where they are on.
        openapi: The OpenAPI document, as JSON.
    """

    settings: Settings
    database: Database
    clock: Clock
    group_commit: GroupCommit
    authenticator: Authenticator
    admission: Admission
    body_budget: BodyBudget
    rate_limits: RateLimits | None
    shutdown: Shutdown
    metrics: Metrics
    sampler: Sampler
    requests: RequestTelemetry
    traces: Traces
    openapi: bytes
