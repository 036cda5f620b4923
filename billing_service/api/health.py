"""Whether the process lives, and whether it can do its work."""

import logging
from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_service.database.migrations import MigrationError, check_schema
from billing_service.database.pool import Database, DatabaseUnavailableError
from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem
from billing_service.http.operations import Operation
from billing_service.ledger.group_commit import Recorder

_log = logging.getLogger(__name__)


class Health(Struct):
    status: Literal["ok", "ready"]


async def healthz(_: Request, __: NoQuery) -> Response:
    """Say that the process answers."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(request: Request, _: NoQuery) -> Response:
    """Say whether the database answers with a schema that fits, the queue has room, and no stop was asked for."""
    database: Database = request.app.state.database
    recorder: Recorder = request.app.state.recorder
    if request.app.state.stop.announced:
        raise _not_ready("The service is stopping.")
    if recorder.queued >= recorder.capacity:
        raise _not_ready("The queue of records is full.")
    try:
        async with database.connection() as connection:
            await check_schema(connection)
    except MigrationError as error:
        raise _not_ready(str(error), "5") from error
    except DatabaseUnavailableError as error:
        _log.warning("the database is not available: %s", error)
        raise _not_ready("The database does not answer, or has no connection to spare.") from error
    return Response(b'{"status":"ready"}', media_type="application/json")


def _not_ready(why: str, retry_after: str = RETRY_AFTER_SECONDS) -> ProblemError:
    return ProblemError(problem("unavailable", why), {"Retry-After": retry_after})


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
