"""The service with its database left out: what HTTP, decoding, hashing and encoding cost by themselves.

`python -m benchmarks.peers.ceiling` serves it just as `billing-service serve` does.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from billing_service.app import create_app
from billing_service.commands.serve import server_config
from billing_service.database.pool import Database
from billing_service.ledger.group_commit import Recorder
from billing_service.ledger.records import Report, Verdict
from billing_service.settings import Settings, load_settings
from billing_service.telemetry.logs import RequestLog, start_logs


class Forgetful(Recorder):
    """Says that everything is recorded, and records nothing."""

    async def record(self, report: Report) -> Verdict:
        return Verdict("recorded", report.record)

    async def record_batch(self, reports: Sequence[Report]) -> list[Verdict]:
        return [Verdict("recorded", report.record) for report in reports]


def create_ceiling(settings: Settings, request_log: RequestLog) -> Starlette:
    """The service's own application with another recorder."""
    app = create_app(settings, request_log)
    whole = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with whole(app):
            app.state.recorder = Forgetful(Database(settings), settings.queue_records)
            yield

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    settings = load_settings()
    config = server_config(create_ceiling(settings, start_logs(settings)), settings)
    config.host, config.port = settings.host, settings.port
    uvicorn.Server(config).run()
