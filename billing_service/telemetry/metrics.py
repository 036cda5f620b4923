"""The service's Prometheus metrics. docs/monitoring/README.md describes each of them."""

import math
import os
import platform
import time
from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from billing_client import __version__
from billing_client.contract.outcomes import Decision
from billing_service.database.pool import PoolUse
from billing_service.database.replication import Durability
from billing_service.telemetry.service_activity import ServiceActivity

Way = Literal["single", "batch"]
WAYS: tuple[Way, ...] = ("single", "batch")
OUTCOMES = ("recorded", "replayed", "duplicate", "conflict", "rejected")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
UNCOUNTED_RECORDS = 1_000  # commits are counted at the latest when they hold this many records
RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types


class Metrics:
    """The metrics of one application."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create the metrics.

        Args:
            folder: Where several worker processes keep their values, so that each can expose the sum of all. None if
                this process serves alone.
        """
        self.silence = ServiceActivity()
        own = CollectorRegistry()
        self._folder = folder
        self._exposed = own if folder is None else CollectorRegistry()
        if folder is not None:
            MultiProcessCollector(self._exposed, str(folder))  # type: ignore[no-untyped-call]  # it has no types
        self._exposed.register(_Facts(self.silence))
        self._requests = BulkHistogram(
            "billing_http_request_duration_seconds",
            "Time from a request's head to the end of its response",
            ("method", "route", "status"),
            buckets=SECONDS,
            registry=own,
        )
        outcomes = Counter("billing_usage_outcomes", "Reported usage by outcome", ("way", "outcome"), registry=own)
        self._outcomes = {(way, outcome): outcomes.labels(way, outcome) for way in WAYS for outcome in OUTCOMES}
        refusals = Counter("billing_refusals", "Refused usage that was kept, or dropped", ("what",), registry=own)
        self._refusals = {what: refusals.labels(what) for what in ("kept", "dropped")}
        self._queue = _Queue(own)
        self._pool = _Pool(own)
        self._skew = Gauge(
            "billing_clock_skew_seconds",
            "How far the machine's clock is ahead of the database's",
            registry=own,
            multiprocess_mode="livemostrecent",
        )
        self._lag = Gauge(
            "billing_read_database_lag_seconds",
            "How far the database for large reads is behind, at most",
            registry=own,
            multiprocess_mode="livemostrecent",
        )
        self._lag.set(math.nan)
        self._durability = _Durability(own)
        self._commits = _Commits(own)
        self._committed: dict[Way, list[_Commit]] = {way: [] for way in WAYS}
        self._uncounted = 0
        self._waits: list[float] = []

    def request(self, method: str, route: str, status: int) -> Callable[[list[float]], None]:
        """The function that takes the durations, in seconds, of requests with these labels."""
        return self._requests.labels(method, route, status).observe_all

    def committed(self, way: Way, decisions: Sequence[Decision], seconds: float) -> None:
        """Note a commit. It is counted later, by `count_commits`.

        Args:
            way: How its records were reported.
            decisions: What was decided about each record.
            seconds: How long it took, the wait for a connection included.
        """
        # Counting each commit at once, while its callers wait, cost a single caller 20 µs per call.
        self._committed[way].append(_Commit(decisions, seconds, time.time()))
        self._uncounted += len(decisions)
        # The decisions of a batch are freed as soon as it is answered, so they are counted now.
        if way == "batch" or self._uncounted >= UNCOUNTED_RECORDS:
            self.count_commits()

    def rejected(self, way: Way, count: int = 1) -> None:
        """Count records that were refused before a commit."""
        self._outcomes[way, "rejected"].inc(count)

    def refusals(self, what: Literal["kept", "dropped"], count: int) -> None:
        """Count refusals that were written for `GET /refusals`, or dropped because too many came at once."""
        self._refusals[what].inc(count)

    def waited(self, seconds: float) -> None:
        """Note how long the first record of a group waited until its commit began."""
        self._waits.append(seconds)

    def clock_skew(self, skew: timedelta) -> None:
        """Set how far this machine's clock is ahead of the database's."""
        self._skew.set(skew.total_seconds())

    def read_lag(self, seconds: float | None) -> None:
        """Set how far the database for large reads is behind; None if that is not known."""
        self._lag.set(math.nan if seconds is None else seconds)

    def durability(self, durability: Durability) -> None:
        """What a commit waits for at this moment."""
        self._durability.set(durability)

    def sample(self, queued: int, capacity: int, pool: PoolUse) -> None:
        """Sample the queue and pool gauges. Each worker process must do this regularly: none sees another's queue.

        Args:
            queued: How many single records wait for their commit to begin.
            capacity: How many may wait.
            pool: How many connections are in use, idle and waited for.
        """
        self._queue.records.set(queued)
        self._queue.capacity.set(capacity)
        self._pool.busy.set(pool.busy)
        self._pool.idle.set(pool.idle)
        self._pool.waiting.set(pool.waiting)
        self._pool.capacity.set(pool.capacity)

    def count_commits(self) -> None:
        """Count the commits and waits that were noted since the last time."""
        for way, commits in self._committed.items():
            outcomes = Tally(decision.outcome for commit in commits for decision in commit.decisions)
            for outcome, count in outcomes.items():
                self._outcomes[way, outcome].inc(count)
            for commit in commits:
                recorded = [each.record for each in commit.decisions if each.outcome == "recorded"]
                self.silence.note({record.service for record in recorded if record}, commit.ended_at)
            self._commits.seconds[way].observe_all([commit.seconds for commit in commits])
            self._commits.records[way].observe_all([len(commit.decisions) for commit in commits])
            commits.clear()
        self._queue.wait.observe_all(self._waits)
        self._waits.clear()
        self._uncounted = 0

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format, summed over all worker processes."""
        if self._folder is not None:
            _remove_gauges_of_ended_processes(self._folder)
        return prometheus_client.generate_latest(self._exposed)


class _Commit(NamedTuple):
    decisions: Sequence[Decision]
    seconds: float
    ended_at: float


class BulkHistogram(Histogram):
    """A histogram that observes many values at little more than the cost of one."""

    def observe_all(self, values: list[float] | list[int]) -> None:
        """Observe each value. Sorts the list in place."""
        values.sort()
        self._sum.inc(sum(values))
        start = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            end = bisect_right(values, bound, start)
            if end > start:
                bucket.inc(end - start)
            start = end


class _Queue:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = _gauge("billing_queue_records", "Single records waiting for their commit to begin", registry)
        self.capacity = _gauge("billing_queue_capacity_records", "Single records that may wait", registry)
        self.wait = BulkHistogram(
            "billing_queue_wait_seconds",
            "Time the first record of a group waited until its commit began",
            buckets=SECONDS,
            registry=registry,
        )


class _Commits:
    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = BulkHistogram(
            "billing_commit_duration_seconds",
            "Time from asking for a connection until every record of a commit is decided",
            ("way",),
            buckets=SECONDS,
            registry=registry,
        )
        records = BulkHistogram(
            "billing_commit_records", "Records in one commit", ("way",), buckets=RECORDS, registry=registry
        )
        self.seconds = {way: seconds.labels(way) for way in WAYS}
        self.records = {way: records.labels(way) for way in WAYS}


class _Pool:
    def __init__(self, registry: CollectorRegistry) -> None:
        connections = _gauge("billing_pool_connections", "Open connections to the database", registry, "state")
        self.busy, self.idle = connections.labels("busy"), connections.labels("idle")
        self.waiting = _gauge("billing_pool_waiting", "Calls waiting for a connection to the database", registry)
        self.capacity = _gauge("billing_pool_capacity_connections", "Connections that may be open", registry)


class _Durability:
    """The same for all processes, so the latest look counts. Not a number until the first look."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(name, documentation, labels, registry=registry, multiprocess_mode="livemostrecent")

        self._timeline = gauge("billing_database_timeline", "Timeline of the primary; each promotion makes it higher")
        self._settings = gauge("billing_database_setting_on", "Whether a setting of PostgreSQL is not off", "setting")
        self._standbys = gauge(
            "billing_database_synchronous_standbys", "Standbys that commits wait for: required, attached", "kind"
        )
        self._fsync, self._commit = (self._settings.labels(name) for name in ("fsync", "synchronous_commit"))
        self._required, self._attached = (self._standbys.labels(name) for name in ("required", "attached"))
        for unknown in (self._timeline, self._fsync, self._commit, self._required, self._attached):
            unknown.set(math.nan)

    def set(self, seen: Durability) -> None:
        self._timeline.set(math.nan if seen.timeline is None else seen.timeline)
        self._fsync.set(seen.fsync)
        self._commit.set(seen.synchronous_commit != "off")
        self._required.set(seen.waits_for)
        self._attached.set(math.nan if seen.attached is None else seen.attached)


def _gauge(name: str, documentation: str, registry: CollectorRegistry, *labels: str) -> Gauge:
    return Gauge(name, documentation, labels, registry=registry, multiprocess_mode="livesum")


class _Facts(Collector):
    """Metrics that are computed when scraped and are the same in every worker process."""

    def __init__(self, silence: ServiceActivity) -> None:
        self._silence = silence

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("billing_build_info", "The running version; always 1", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        silence = GaugeMetricFamily(
            "billing_usage_silence_seconds", "Time since a service last had usage recorded", labels=("metered_service",)
        )
        for service, seconds in self._silence.silences(time.time()).items():
            silence.add_metric((service,), seconds)
        yield silence


def _remove_gauges_of_ended_processes(folder: Path) -> None:
    """Remove the gauges of processes that have ended. Their counters and histograms stay."""
    for file in folder.glob("gauge_live*_*.db"):
        if not _is_alive(int(file.stem.rpartition("_")[2])):
            file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # only POSIX has signal 0, which tests whether a process exists
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # a process of another user is not one of our workers
        return False
    return True
