"""The one place where the parts are put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from billing_service import customers, exports, health, statements, summaries, usage
from billing_service.database import Database, DatabaseUnavailableError
from billing_service.problems import AnswerCutOffs, ProblemError, answer_error
from billing_service.recorder import Recorder
from billing_service.requests import RawPath
from billing_service.settings import Settings, load_settings

_ERRORS = (ProblemError, HTTPException, DatabaseUnavailableError, ClientDisconnect, Exception)


def create_app(settings: Settings) -> Starlette:
    """The service as an ASGI application on the database that the settings name."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        database = Database(settings)
        await database.open()
        app.state.settings = settings
        app.state.database = database
        app.state.recorder = Recorder(database, settings.queue_records)
        try:
            yield
        finally:
            await app.state.recorder.drain()
            await database.close()

    app = Starlette(
        routes=[
            *customers.ROUTES,
            *usage.ROUTES,
            *exports.ROUTES,
            *summaries.ROUTES,
            *statements.ROUTES,
            *health.ROUTES,
        ],
        middleware=[Middleware(AnswerCutOffs), Middleware(RawPath)],
        exception_handlers=dict.fromkeys(_ERRORS, answer_error),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def app_from_environment() -> Starlette:
    """What each worker process runs."""
    return create_app(load_settings())
