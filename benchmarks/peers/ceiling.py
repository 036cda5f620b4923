"""The service with its database left out: what HTTP, decoding, hashing and encoding cost by themselves."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from billing_service.app import create_app
from billing_service.database import Database
from billing_service.ledger import Report, Verdict
from billing_service.recorder import Recorder
from billing_service.settings import load_settings


class Forgetful(Recorder):
    """Says that everything is recorded, and records nothing."""

    async def record(self, report: Report) -> Verdict:
        return Verdict("recorded", report.record)

    async def record_batch(self, reports: Sequence[Report]) -> list[Verdict]:
        return [Verdict("recorded", report.record) for report in reports]


def create_ceiling() -> Starlette:
    """The service's own application with another recorder."""
    settings = load_settings()
    app = create_app(settings)
    whole = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with whole(app):
            app.state.recorder = Forgetful(Database(settings), settings.queue_records)
            yield

    app.router.lifespan_context = lifespan
    return app
