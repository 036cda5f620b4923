"""The description of the API: as OpenAPI for programs, and as a page for people that needs no other host."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from billing_client.contract.query_parameters import NoQuery
from billing_service.http.operations import Operation

_TEMPLATES = Path(__file__).parents[1] / "rendering" / "templates"
_SWAGGER_UI = Path(str(files("swagger_ui"))) / "static"
_PAGE = _TEMPLATES / "docs.html"
_ASSETS = {
    "docs.js": _TEMPLATES / "docs.js",
    "swagger-ui-bundle.js": _SWAGGER_UI / "swagger-ui-bundle.js",
    "swagger-ui.css": _SWAGGER_UI / "swagger-ui.css",
    "favicon.png": _SWAGGER_UI / "favicon-32x32.png",
}
# Swagger UI sets the styles of its elements, and has its icons in data: addresses
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}


async def get_openapi(request: Request, _: NoQuery) -> Response:
    """Read this document."""
    return Response(request.app.state.openapi, media_type="application/json")


async def show_page(_: Request) -> Response:
    """`GET /docs`: the document as a page."""
    return FileResponse(_PAGE, headers=_SAFE)


async def get_asset(request: Request) -> Response:
    """`GET /docs/{name}`: what the page is made of."""
    path = _ASSETS.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return FileResponse(path, headers=_SAFE | {"Cache-Control": "public, max-age=86400"})


OPERATIONS = [
    Operation(
        method="GET",
        path="/openapi.json",
        handler=get_openapi,
        tag="service",
        scope=None,
        answer=dict[str, Any],
    )
]
ROUTES = [Route("/docs", show_page, methods=["GET"]), Route("/docs/{name}", get_asset, methods=["GET"])]
