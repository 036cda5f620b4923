"""Sign in with an API key, and out again; `/` leads a browser to the console."""

from starlette.responses import RedirectResponse, Response

from billing_service.console.formats import path
from billing_service.console.pages import page_operation, read_form, redirect, safe_next, show
from billing_service.http.errors import ProblemError, problem
from billing_service.http.negotiation import choose_format
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.sessions import SESSION_COOKIE
from billing_service.telemetry import audit


async def find_console(request: ApiRequest, _: None) -> Response:
    """Lead a browser to the console. Others learn that there is nothing here."""
    if "text/html" not in request.headers.get("accept", ""):
        raise ProblemError(problem("not_found", "Not Found."))
    choose_format(request, None, {"html": "text/html"})
    return RedirectResponse(path(), 302, {"Vary": "Accept"})


async def show_form(request: ApiRequest, _: None) -> Response:
    """Show the form to sign in."""
    return show(request, "sign_in", next=safe_next(request.query_params.get("next")), problem=None)


async def sign_in(request: ApiRequest, _: None) -> Response:
    """Sign in with an API key. A session that this browser had ends."""
    with request.services.admission:
        fields = await read_form(request)
        goal = safe_next(fields.get("next"))
        try:
            caller, token = await request.services.sessions.open(fields.get("key", ""), request.address)
        except ProblemError as error:
            request.info.code = error.details.code
            response = show(request, "sign_in", status=error.details.status, next=goal, problem=error.details)
            response.headers.update(error.headers or {})
            return response
    if before := request.cookies.get(SESSION_COOKIE):  # nobody could sign out of it without its cookie
        await request.services.sessions.end(before)
    request.info.key_id = caller.key_id
    audit.signed_in(caller.key_name or caller.name, request.address)
    return redirect(request, goal, token)


async def sign_out(request: ApiRequest, _: None) -> Response:
    """End the session of this browser."""
    with request.services.admission:
        await read_form(request)
        await request.services.sessions.end(request.cookies.get(SESSION_COOKIE, ""))
    response = redirect(request, path("sign-in"))
    response.delete_cookie(SESSION_COOKIE, path="/console", httponly=True, samesite="strict")
    return response


OPERATIONS = [
    Operation(
        method="GET",
        path="/",
        handler=find_console,
        tag="console",
        scope=None,
        reach="open",
        query=None,
        documented=False,
    ),
    page_operation("GET", "/console/sign-in", show_form, None),
    page_operation("POST", "/console/sign-in", sign_in, None),
    page_operation("POST", "/console/sign-out", sign_out, None),
]
