"""Whether the process lives, and whether it can do its work."""

from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.queries import NoQuery
from billing_service.database import Database
from billing_service.migrations import MigrationError, check_schema
from billing_service.operations import Operation
from billing_service.problems import RETRY_AFTER_SECONDS, ProblemError, problem


class Health(Struct):
    status: Literal["ok", "ready"]


async def healthz(_: Request, __: NoQuery) -> Response:
    """Say that the process answers."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(request: Request, _: NoQuery) -> Response:
    """Say whether the database answers, its schema is this program's, and no stop was asked for."""
    if request.app.state.stop.announced:
        raise ProblemError(problem("unavailable", "The service is stopping."), {"Retry-After": RETRY_AFTER_SECONDS})
    database: Database = request.app.state.database
    try:
        async with database.connection() as connection:
            await check_schema(connection)
    except MigrationError as error:
        raise ProblemError(problem("unavailable", str(error)), {"Retry-After": "5"}) from error
    return Response(b'{"status":"ready"}', media_type="application/json")


OPERATIONS = [
    Operation(method="GET", path="/healthz", handler=healthz, tag="service", scope=None, answer=Health),
    Operation(
        method="GET",
        path="/readyz",
        handler=readyz,
        tag="service",
        scope=None,
        answer=Health,
        problems=("unavailable",),
    ),
]
