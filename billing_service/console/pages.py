"""What all pages share: the layout, the headers that keep them safe, forms, and errors as pages."""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct
from starlette.responses import RedirectResponse, Response

from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.request_parsing import check_timezone
from billing_service.console.formats import FILTERS, change, first_of, last_day, path, query
from billing_service.currencies import MINOR_UNITS
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.sessions import SESSION_COOKIE, SESSION_TIME
from billing_service.ledger.api_keys import Scope
from billing_service.ledger.statements.signing import key_id_of
from billing_service.rendering.formats import cell, places

_FOLDER = Path(__file__).parent
STATIC = {file.name: file.read_bytes() for file in sorted((_FOLDER / "static").iterdir())}
VERSION = sha256(b"".join(STATIC.values())).hexdigest()[:12]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# with no-referrer, browsers would send `Origin: null` with forms
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin", "Vary": "Cookie"}
_OLD_AREAS = {"Etc", "SystemV", "US", "Canada", "Brazil", "Chile", "Mexico"}
_ZONES = [
    "UTC",
    *sorted(zone for zone in available_timezones() if "/" in zone and zone.split("/")[0] not in _OLD_AREAS),
]
CSRF_FIELD = "csrf"

_templates = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_templates.filters |= FILTERS
_templates.globals |= {
    "path": path,
    "query": query,
    "places": places,
    "change": change,
    "cell_of": cell,
    "signed_by": key_id_of,
    "first_of": first_of,
    "last_day": last_day,
    "zones": Markup("").join(Markup('<option value="{}"></option>').format(zone) for zone in _ZONES),
    "version": VERSION,
}


def page_operation(
    method: Literal["GET", "POST"],
    address: str,
    handler: Callable[[ApiRequest, Any], Awaitable[Response]],
    scope: Scope | None,
    query: type[Struct] | None = None,
) -> Operation:
    """The operation of a page or form: its errors are pages, and the OpenAPI document does not show it.

    Args:
        method: `POST` for forms; a form is read by `read_form`.
        address: The path, with ids in braces.
        handler: Answers the request. Where there is a scope and no `{customer_id}`, it checks the caller's reach.
        scope: The scope that the caller's API key needs; None for everyone.
        query: The struct of the query parameters; None if the handler reads them.
    """
    return Operation(
        method=method,
        path=address,
        handler=handler,
        tag="console",
        scope=scope,
        reach="open" if scope is None else "customer" if "{customer_id}" in address else "handler",
        query=query,
        documented=False,
        error_page=error_page,
    )


class View(NamedTuple):
    """How a page shows its data: in which time zone, and as of when."""

    zone: str
    as_of: datetime

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)


def zone_of(request: ApiRequest) -> str:
    """The time zone that the page is asked to show; UTC by default. Raises ProblemError (400)."""
    return check_timezone(request.query_params.get("timezone") or "UTC")


def show(
    request: ApiRequest, template: str, view: View | None = None, status: int = 200, **content: object
) -> Response:
    """Render a page.

    Args:
        request: The request it answers.
        template: The name of its template, without `.html`.
        view: The time zone and moment of its data; None for a page without data, which is in UTC.
        status: The HTTP status.
        **content: What the template shows.
    """
    if _cookie_was_kept_back(request):
        return _again(request)
    token = request.cookies.get(SESSION_COOKIE) or secrets.token_urlsafe(32)
    caller = request.caller
    shared = {
        "caller": caller,
        "signed_in": caller.key_id is not None,
        "is_admin": "admin" in caller.scopes and caller.customer_id is None,
        "csrf": csrf_token(token),
        "currency": request.services.settings.currency,
        "minor_unit": MINOR_UNITS[request.services.settings.currency],
        "here": request.url.path,
        "view": view or View("UTC", request.services.clock.now()),
        "has_data": view is not None,
        "asked": request.query_params,
    }
    text = _templates.get_template(f"{template}.html").render(shared | content)
    response = Response(text, status, HEADERS, "text/html")
    if SESSION_COOKIE not in request.cookies:
        set_cookie(request, response, token)
    return response


def redirect(request: ApiRequest, address: str, token: str | None = None) -> Response:
    """Send the browser to another page of the console; with a token, as signed in."""
    response = RedirectResponse(address, 303, HEADERS)
    if token is not None:
        set_cookie(request, response, token)
    return response


def set_cookie(request: ApiRequest, response: Response, token: str) -> None:
    """Set the cookie of a session. No script reads it, and no other site's page sends it."""
    # A proxy that terminates TLS may be trusted with the scheme or not; the browser says it with each form.
    is_secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(SESSION_TIME.total_seconds()),
        path="/console",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )


def csrf_token(token: str) -> str:
    """What the forms of a browser hold, and other sites cannot know: made from the token in its cookie."""
    return hmac.new(token.encode(), b"billing console form", sha256).hexdigest()


async def read_form(request: ApiRequest) -> dict[str, str]:
    """Read a form that a page of this browser holds.

    A request with a valid API key in its `Authorization` header needs no token: no page of another site knows one. What
    else may stand in that header, a browser may send by itself, as with the password of a proxy.

    Raises:
        ProblemError: 403 for a form that does not come from a page of this browser; and those of `read_form`.
    """
    fields = await request.read_form()
    given = fields.pop(CSRF_FIELD, "")
    if b"authorization" in request.fields and request.caller.key_id is not None:
        return fields
    token = request.cookies.get(SESSION_COOKIE)
    is_ours = request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    if not token or not is_ours or not hmac.compare_digest(given, csrf_token(token)):
        detail = "The form is out of date, or was not made here. Go back, load the page again, and send it again."
        raise ProblemError(problem("forbidden", detail))
    return fields


def error_page(request: ApiRequest, error: ProblemError) -> Response:
    """The page of an error. Who must sign in first is sent there, and comes back afterwards."""
    request.info.code = error.details.code
    if error.details.code == "unauthenticated":
        return _ask_to_sign_in(request)
    request_id = request.info.http_request_id.decode()
    response = show(request, "error", None, error.details.status, problem=error.details, http_request_id=request_id)
    response.headers.update(error.headers or {})
    return response


def _ask_to_sign_in(request: ApiRequest) -> Response:
    if _cookie_was_kept_back(request):
        return _again(request)
    return redirect(request, path("sign-in") + query(next=_address(request) if request.method == "GET" else None))


def _cookie_was_kept_back(request: ApiRequest) -> bool:
    """Whether another site's link led here: then the browser keeps the cookie back, if it has one (SameSite=Strict)."""
    is_navigation = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
    return is_navigation and SESSION_COOKIE not in request.cookies


def _again(request: ApiRequest) -> Response:
    """A page that leads to the same address: as it is a page of this site, the browser then sends the cookie. It sets
    none itself, which would take the place of the session."""
    text = _templates.get_template("again.html").render(address=_address(request))
    return Response(text, 200, HEADERS, "text/html")


def _address(request: ApiRequest) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def safe_next(address: str | None) -> str:
    """Where to go after signing in: an address of the console, and nowhere else."""
    parts = urlsplit(address or "")
    is_ours = not parts.scheme and not parts.netloc and (parts.path == "/console" or parts.path.startswith("/console/"))
    return address if address and is_ours and "\\" not in address else path()
