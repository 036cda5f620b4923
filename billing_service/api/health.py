"""Whether the process lives, and whether it can do its work."""

import logging
from typing import Literal

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_service.database.faults import NoPrimaryError
from billing_service.database.migrations import MigrationError, check_schema
from billing_service.database.pool import DatabaseUnavailableError
from billing_service.database.replication import takes_no_writes
from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest

_log = logging.getLogger(__name__)
_NO_PRIMARY = "The database takes no writes: DATABASE_URL leads to a standby, or to a primary that is read-only."


class Health(Struct):
    status: Literal["ok", "ready"]


async def get_health(_: ApiRequest, __: NoQuery) -> Response:
    """Say that the process answers."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def get_readiness(request: ApiRequest, _: NoQuery) -> Response:
    """Say whether the database takes writes, with a schema that fits and the same time, the queue has room, and no stop
    was asked for."""
    services = request.services
    if services.shutdown.announced:
        raise _not_ready("The service is stopping.")
    if services.group_commit.queued >= services.group_commit.capacity:
        raise _not_ready("The queue of records is full.")
    try:
        async with request.services.database.connection() as connection:
            await check_schema(connection)
            is_read_only = await takes_no_writes(connection)
            if services.clock.fault or not services.clock.is_synchronised:  # it may have been set meanwhile
                await services.clock.synchronise(connection)
    except MigrationError as error:
        raise _not_ready(str(error), "5") from error
    except NoPrimaryError as error:
        _log.warning("%s", error)
        raise _not_ready(_NO_PRIMARY) from error
    except DatabaseUnavailableError as error:
        _log.warning("the database is not available: %s", error)
        raise _not_ready("The database does not answer, or has no connection to spare.") from error
    if is_read_only:
        raise _not_ready(_NO_PRIMARY)
    if fault := services.clock.fault:
        raise _not_ready(fault, "60")
    return Response(b'{"status":"ready"}', media_type="application/json")


def _not_ready(why: str, retry_after: str = RETRY_AFTER_SECONDS) -> ProblemError:
    return ProblemError(problem("unavailable", why), {"Retry-After": retry_after})


OPERATIONS = [
    Operation(
        method="GET", path="/healthz", handler=get_health, tag="service", scope=None, reach="open", answer=Health
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=get_readiness,
        tag="service",
        scope=None,
        reach="open",
        answer=Health,
        problems=("unavailable",),
    ),
]
