"""Group commit: records that arrive during a commit are written together by the next one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice
from typing import Any

import asyncpg

from billing_client.contract.outcomes import Decision, Submission
from billing_service.database.clock import Clock
from billing_service.database.kept_connection import KeptConnection
from billing_service.database.nodes import THE_ONE, Nodes
from billing_service.database.pool import Database, DatabaseUnavailableError
from billing_service.ledger.changes import Changes
from billing_service.ledger.records import UsageWriter, decide_dry_run
from billing_service.telemetry.metrics import Metrics
from billing_service.telemetry.tracing import OFF, Traces

_Waiting = tuple[Submission, "asyncio.Future[Decision]", Any]  # The last is the call's place in a trace.

# The fields of a record are bounded: one takes at most 3 KB, and 17 KB more if it has dimensions. A bound in records is
# also a bound in bytes.
GROUP_RECORDS = 1_000
ANSWERS_AT_ONCE = 16
# How long a writer of a distributed database waits between two groups: this part of the time that the last one took. A
# call to a node costs milliseconds of CPU however few records it has. The callers just answered send their next ones
# meanwhile: with 64 connections and two nodes groups grow from 16 to 23 records, and one costs a quarter less.
LINGER = 0.25
LINGER_SECONDS = 0.01  # and no longer than this


class GroupCommit:
    """Answers each submission after the commit that holds it, and never before.

    A database that is distributed by customer has a writer for each node, so that a node that is slow or away holds up
    its own customers alone. `queue_records` bounds how many single submissions may wait for a node; one more is refused
    at once.
    """

    def __init__(
        self,
        database: Database,
        queue_records: int,
        metrics: Metrics | None = None,
        traces: Traces = OFF,
        clock: Clock | None = None,
        changes: Changes | None = None,
    ) -> None:
        self._database = database
        self._queue_records = queue_records
        self._metrics = metrics or Metrics()
        self._traces = traces
        self._clock = clock or Clock()
        self._changes = changes or Changes(database)
        self._usage = UsageWriter()
        self._nodes = Nodes()
        self._sorter = _Queue(self._sort)  # what waits until it is known where it belongs
        self._writers: dict[int, _Queue] = {}

    async def record(self, submission: Submission) -> Decision:
        """Record one submission. Raises DatabaseUnavailableError; a retry of the same call is then safe."""
        node = self._nodes.of(submission.record.customer_id)
        queue = self._sorter if node is None else self._writer(node)
        if len(queue.waiting) >= self._queue_records:
            raise DatabaseUnavailableError("the queue of records is full")
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        place = self._traces.place() if self._traces.is_on else None
        queue.add((submission, future, place))
        return await future

    async def record_batch(
        self, submissions: Sequence[Submission], is_sent: asyncio.Event | None = None
    ) -> list[Decision]:
        """Record a batch, in one transaction for each node. Raises DatabaseUnavailableError.

        Where one node is away the others have recorded what is theirs; a retry of the call finds it.

        Args:
            submissions: What to record.
            is_sent: Is set as soon as the database has to do what is most of the work, and all seems to be new. What
                there is to do meanwhile can begin then.
        """
        started = time.perf_counter()
        with self._traces.commit("batch", [self._traces.place()]):
            parts = [] if self._nodes.is_one else await self._split(submissions)
            if len(parts) <= 1:
                decisions = await self._record_part(submissions, is_sent)
            else:
                decisions = await self._record_parts(submissions, parts)
        self._changes.note_recorded(decisions)
        self._metrics.committed("batch", decisions, time.perf_counter() - started)
        return decisions

    async def _record_part(
        self, submissions: Sequence[Submission], is_sent: asyncio.Event | None = None
    ) -> list[Decision]:
        node = self._nodes.of(submissions[0].record.customer_id) if submissions else None
        try:
            async with self._database.write_connection(self._nodes.address(node)) as connection:
                return await self._usage.record(connection, submissions, is_sent)
        except DatabaseUnavailableError:
            self._nodes.forget(node)
            raise

    async def _record_parts(self, submissions: Sequence[Submission], parts: Sequence[list[int]]) -> list[Decision]:
        """Record the parts of a batch beside each other. All of them end before one that failed is told."""
        calls = [self._record_part([submissions[n] for n in part]) for part in parts]
        results = await asyncio.gather(*calls, return_exceptions=True)
        decisions: dict[int, Decision] = {}
        for part, result in zip(parts, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            decisions |= zip(part, result, strict=True)
        return [decisions[n] for n in range(len(submissions))]

    async def _split(self, submissions: Sequence[Submission]) -> list[list[int]]:
        """The places of the submissions in their batch, by the node that their customers are on."""
        self._nodes.refresh()
        customer_ids = {submission.record.customer_id for submission in submissions}
        if missing := {id_ for id_ in customer_ids if self._nodes.of(id_) is None}:
            async with self._database.connection() as connection:
                await self._nodes.look_up(connection, missing)
        nodes = {id_: self._nodes.of(id_) for id_ in customer_ids}
        if len(set(nodes.values())) <= 1:
            return [list(range(len(submissions)))]
        parts: dict[int | None, list[int]] = {}
        for n, submission in enumerate(submissions):
            parts.setdefault(nodes[submission.record.customer_id], []).append(n)
        return list(parts.values())

    def near(self, customer_id: str) -> str | None:
        """Where the node of a customer listens, as `host:port`, if that is known: to read there what it holds."""
        return self._nodes.address(self._nodes.of(customer_id))

    async def dry_run_batch(self, submissions: Sequence[Submission]) -> list[Decision]:
        """Say what recording a batch would do. Nothing is written. Raises DatabaseUnavailableError."""
        async with self._database.connection() as connection:
            return await decide_dry_run(connection, submissions)

    async def drain(self, timeout: float) -> None:
        """Wait until every accepted record is written, for at most `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while tasks := [queue.task for queue in self._queues if queue.task is not None]:
                    await asyncio.wait(tasks)

    @property
    def _queues(self) -> list["_Queue"]:
        return [self._sorter, *self._writers.values()]

    @property
    def queued(self) -> int:
        """How many single submissions are waiting."""
        return sum(len(queue.waiting) for queue in self._queues)

    @property
    def capacity(self) -> int:
        """How many single submissions may wait, for all nodes together."""
        return self._queue_records * max(1, len(self._writers))

    def _writer(self, node: int) -> "_Queue":
        """The writer of a node, which has a connection of its own."""
        writer = self._writers.get(node)
        if writer is None:
            kept = self._database.kept_connection(partial(self._nodes.address, node))
            linger = 0.0 if self._nodes.is_one else LINGER
            writer = self._writers[node] = _Queue(partial(self._write_group, node, kept), linger)
        return writer

    async def _sort(self, group: list[_Waiting]) -> None:
        """Find out which nodes submissions belong to, and have them written there."""
        async with self._database.connection() as connection:
            await self._nodes.look_up(connection, {submission.record.customer_id for submission, _, _ in group})
        for waiting in group:
            self._writer(self._nodes.of(waiting[0].record.customer_id) or THE_ONE).add(waiting)

    async def _write_group(self, node: int, kept: KeptConnection, group: list[_Waiting]) -> None:
        self._nodes.refresh()
        self._metrics.waited((self._clock.now() - group[0][0].record.recorded_at).total_seconds())
        try:
            await self._write_together(kept, group)
        except DatabaseUnavailableError:
            self._nodes.forget(node)
            raise

    async def _write_together(self, kept: KeptConnection, group: list[_Waiting]) -> None:
        submissions, futures, places = zip(*group, strict=True)
        started = time.perf_counter()
        try:
            with self._traces.commit("single", places):
                decisions = await kept.run(partial(self._usage.record, submissions=submissions))
        except DatabaseUnavailableError:
            raise
        except asyncpg.PostgresError as error:
            if len(group) == 1:
                _fail(group, error)
            for waiting in group if len(group) > 1 else []:  # The one at fault then fails alone.
                await self._write_together(kept, [waiting])
        except Exception as error:  # noqa: BLE001 - every call of the group must get an answer
            _fail(group, error)
        else:
            self._changes.note_recorded(decisions)
            self._metrics.committed("single", decisions, time.perf_counter() - started)
            _answer(zip(futures, decisions, strict=True))


class _Queue:
    """Submissions that wait, and the task that takes them, group by group.

    Args:
        take: Sees to it that a group is answered. May raise DatabaseUnavailableError.
        linger: How long to wait between two groups, as a part of the time that the last one took. If nothing waits
            the next submission is taken at once.
    """

    def __init__(self, take: Callable[[list[_Waiting]], Awaitable[None]], linger: float = 0.0) -> None:
        self.waiting: list[_Waiting] = []
        self.task: asyncio.Task[None] | None = None
        self._take = take
        self._linger = linger

    def add(self, waiting: _Waiting) -> None:
        """Add a submission. The task also serves other callers, so it gets an empty context."""
        self.waiting.append(waiting)
        if self.task is None:
            self.task = asyncio.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            while self.waiting:
                group, self.waiting = self.waiting[:GROUP_RECORDS], self.waiting[GROUP_RECORDS:]
                began = time.perf_counter()
                try:
                    await self._take(group)
                except DatabaseUnavailableError as error:  # The waiting ones would fail too, group by group.
                    waiting, self.waiting = self.waiting, []
                    _fail(group + waiting, error)
                except Exception as error:  # noqa: BLE001 - every call of the group must get an answer
                    _fail(group, error)
                if self._linger and self.waiting:
                    await asyncio.sleep(min(LINGER_SECONDS, self._linger * (time.perf_counter() - began)))
        finally:
            self.task = None


def _answer(answers: "Iterator[tuple[asyncio.Future[Decision], Decision]]") -> None:
    """Answer the calls of a group, ANSWERS_AT_ONCE at a time, and let the event loop run in between.

    Callers answered all at once send their next records all at once, which form one group again: PostgreSQL then idles
    while the service works, and the service idles while PostgreSQL works. At 64 connections, this raises throughput
    from 13,500 to 15,000 records a second.
    """
    some = list(islice(answers, ANSWERS_AT_ONCE))
    for future, verdict in some:
        if not future.done():  # It is done already if the caller went away.
            future.set_result(verdict)
    if len(some) == ANSWERS_AT_ONCE:
        asyncio.get_running_loop().call_soon(_answer, answers)


def _fail(group: list[_Waiting], error: Exception) -> None:
    for _, future, _ in group:
        if not future.done():
            future.set_exception(error)
