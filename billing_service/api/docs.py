"""The API documentation: the OpenAPI document, and a page (Swagger UI) that loads nothing from other hosts."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from billing_client.contract.query_parameters import NoQuery
from billing_service.http.errors import ProblemError, problem
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest


def _folder_of(package: str) -> Path:
    """Where an installed package is. It is not imported, which takes as long as all of this service's own modules."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent


_TEMPLATES = Path(__file__).parents[1] / "rendering" / "templates"
_SWAGGER_UI = _folder_of("swagger_ui") / "static"
_PAGE = _TEMPLATES / "docs.html"
_ASSETS = {
    "docs.js": _TEMPLATES / "docs.js",
    "swagger-ui-bundle.js": _SWAGGER_UI / "swagger-ui-bundle.js",
    "swagger-ui.css": _SWAGGER_UI / "swagger-ui.css",
    "favicon.png": _SWAGGER_UI / "favicon-32x32.png",
}
# Swagger UI sets inline styles, and embeds its icons as data: URLs
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}


async def get_openapi(request: ApiRequest, _: NoQuery) -> Response:
    """Read the OpenAPI document."""
    document = await asyncio.to_thread(request.services.openapi)
    return Response(document, media_type="application/json")


async def show_page(_: ApiRequest, __: None) -> Response:
    """Show the OpenAPI document as a page."""
    return FileResponse(_PAGE, headers=_SAFE)


async def get_asset(request: ApiRequest, _: None) -> Response:
    """Read a script, style sheet or image of the page."""
    path = _ASSETS.get(request.ids["name"])
    if path is None:
        raise ProblemError(problem("not_found", "Not Found."))
    return FileResponse(path, headers=_SAFE | {"Cache-Control": "public, max-age=86400"})


OPERATIONS = [
    Operation(
        method="GET",
        path="/openapi.json",
        handler=get_openapi,
        tag="service",
        scope=None,
        reach="open",
        answer=dict[str, Any],
    ),
    Operation(
        method="GET",
        path="/docs",
        handler=show_page,
        tag="service",
        scope=None,
        reach="open",
        query=None,
        documented=False,
    ),
    Operation(
        method="GET",
        path="/docs/{name}",
        handler=get_asset,
        tag="service",
        scope=None,
        reach="open",
        query=None,
        documented=False,
    ),
]
