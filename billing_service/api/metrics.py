"""The endpoint that Prometheus scrapes."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest


async def get_metrics(request: ApiRequest, _: NoQuery) -> Response:
    """Read the metrics in the Prometheus text format."""
    request.caller.require_reach(None)  # the metrics cover all customers
    return Response(await request.services.sampler.expose(), media_type=CONTENT_TYPE_LATEST)


OPERATIONS = [
    Operation(
        method="GET",
        path="/metrics",
        handler=get_metrics,
        tag="service",
        scope="usage:read",
        reach="handler",
        media_types=(CONTENT_TYPE_LATEST.partition(";")[0],),
    )
]
