"""Bugs, planted to see that the check catches them: the real service and the real client, each wrong in one point."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette

from billing_client import BillingSystemClient
from billing_client._config import load_config
from billing_client._transport import Call, Transport
from billing_service.app import create_app
from billing_service.database.pool import Database
from billing_service.ledger.group_commit import Recorder
from billing_service.ledger.records import Report, Verdict
from billing_service.settings import load_settings

COMMIT_SECONDS = 0.5


class HastyRecorder(Recorder):
    """Acknowledges before the commit."""

    def __init__(self, database: Database, queue_records: int) -> None:
        super().__init__(database, queue_records)
        self._commits: set[asyncio.Task[None]] = set()

    async def record(self, report: Report) -> Verdict:
        return (await self.record_batch([report]))[0]

    async def record_batch(self, reports: Sequence[Report]) -> list[Verdict]:
        commit = asyncio.create_task(self._commit(reports))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        return [Verdict("recorded", report.record) for report in reports]

    async def _commit(self, reports: Sequence[Report]) -> None:
        await asyncio.sleep(COMMIT_SECONDS)
        await super().record_batch(reports)


def hasty_service() -> Starlette:
    """The service with a recorder that acknowledges before the commit."""
    settings = load_settings()
    app = create_app(settings)
    whole = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        async with whole(app) as state:
            app.state.recorder = HastyRecorder(app.state.database, settings.queue_records)
            yield state

    app.router.lifespan_context = lifespan
    return app


class _ForgetfulTransport(Transport):
    """Gives each attempt of a call a name of its own."""

    async def _request(self, session: Any, call: Call) -> Any:
        call.headers["Idempotency-Key"] = call.idempotency_key = str(uuid4())
        return await super()._request(session, call)


class ForgetfulClient(BillingSystemClient):
    """Sends a new Idempotency-Key with each retry."""

    def __init__(self, *, base_url: str, timeout: float) -> None:
        super().__init__(base_url=base_url, timeout=timeout)
        config = load_config(base_url=base_url, api_key=None, timeout=timeout, max_attempts=20, max_connections=100)
        self._transport = _ForgetfulTransport(config, None, "forgetful")


if __name__ == "__main__":
    settings = load_settings()
    uvicorn.run(hasty_service, factory=True, host=settings.host, port=settings.port, log_level="warning", ws="none")
