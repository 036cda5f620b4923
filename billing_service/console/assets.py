"""The console's style sheet, script and icon, and the page for addresses that have none."""

from starlette.responses import Response

from billing_service.console.pages import HEADERS, STATIC, page_operation
from billing_service.http.errors import ProblemError, problem
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# the pages name a file together with a version that changes with its content
_CACHED = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}


async def get_asset(request: ApiRequest, _: None) -> Response:
    """Read a file that the pages use."""
    name = request.ids["name"]
    if name not in STATIC:
        raise ProblemError(problem("not_found", "Not Found."))
    return Response(STATIC[name], 200, _CACHED, _TYPES[name.rpartition(".")[2]])


async def find_nothing(_: ApiRequest, __: None) -> Response:
    """Answer with a page at an address that has none."""
    raise ProblemError(problem("not_found", "There is no page at this address."))


OPERATIONS = [
    Operation(
        method="GET",
        path="/console/static/{name}",
        handler=get_asset,
        tag="console",
        scope=None,
        reach="open",
        query=None,
        documented=False,
    ),
    page_operation("GET", "/console/{page}", find_nothing, None),
]
