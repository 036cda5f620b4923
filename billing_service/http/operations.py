"""Operations: one description of each endpoint, used for routing, authorization and the OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_client.contract.request_parsing import read_query
from billing_service.http.auth import Caller, scope_is_missing
from billing_service.http.errors import ProblemError, invalid_input
from billing_service.http.requests import ApiRequest
from billing_service.http.sessions import SESSION_COOKIE
from billing_service.ledger.api_keys import Scope

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class SentDecimal:
    """Marks the decimals of a struct as callers may send them."""


class PlainDecimal:
    """Marks the decimals of a struct as responses hold them."""


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path. The handler's docstring becomes the summary and description in the OpenAPI document.

    Attributes:
        method: The HTTP method. An operation with `GET` also answers `HEAD`.
        path: The path, with ids in braces: `/customers/{customer_id}`.
        handler: Answers an authorized request.
        tag: The group in the OpenAPI document.
        scope: The scope that the caller's API key needs; None if the operation is open to everyone.
        reach: Where it is checked that a key bound to a customer reaches only that customer's data. `customer`: before
            the handler, by the customer id in the path. `handler`: in the handler, because body, query or response name
            the customers. `open`: nowhere, because no customer's data is involved.
        idempotency_key: Whether the operation reads the `Idempotency-Key`.
        query: The struct of the query parameters; None to ignore the query.
        body: The struct of the request body; None without one.
        answer: The struct of a successful response in the first of `media_types`.
        status: The status of success.
        accepted: The struct of a 202 response, which says that the caller must ask again; None without one.
        headers: The headers that a response may have besides those of every response.
        media_types: The media types of a successful response.
        problems: The problem codes of the operation besides those that `all_problems` derives.
        documented: Whether the OpenAPI document shows it.
        error_page: Makes a page of an error, for an operation that browsers call: there a console session may stand for
            the API key. None if errors become problems, and only an API key counts.
    """

    method: Method
    path: str
    handler: Callable[[ApiRequest, Any], Awaitable[Response]]
    tag: Literal["usage", "customers", "billing", "keys", "service", "console"]
    scope: Scope | None
    reach: Literal["customer", "handler", "open"]
    idempotency_key: bool = False
    query: type[Struct] | None = NoQuery
    body: Any = None
    answer: Any = None
    status: int = 200
    accepted: Any = None
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)
    problems: tuple[str, ...] = ()
    documented: bool = True
    error_page: Callable[[ApiRequest, ProblemError], Response] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if `reach` contradicts `scope` or `path`."""
        if (self.reach == "customer") != (self.scope is not None and "{customer_id}" in self.path):
            raise ValueError(f"{self.path}: reach must be `customer` exactly if there is a scope and {{customer_id}}")
        if (self.reach == "open") != (self.scope is None):
            raise ValueError(f"{self.path}: reach must be `open` exactly if there is no scope")

    @property
    def all_problems(self) -> tuple[str, ...]:
        """All problem codes of the operation, except internal errors and request heads that are too large."""
        implied = ["validation_error"]
        if self.body is not None:
            implied += ["payload_too_large", "unsupported_media_type"]
        if self.scope is not None:
            implied += ["unauthenticated", "forbidden", "rate_limited", "unavailable"]
        return (*implied, *self.problems)


async def answer_operation(operation: Operation, request: ApiRequest) -> Response:
    """Authorize the caller and call the handler. The cheapest checks come first. Raises ProblemError."""
    if operation.scope is None:
        return await operation.handler(request, _read_query(operation, request))
    services = request.services
    with services.admission:
        if services.rate_limits is not None:
            await services.rate_limits.count_request_of_address(request.address, request.standings)
        request.caller = caller = await _find_caller(operation, request)
        request.info.key_id = caller.key_id
        if services.rate_limits is not None:
            await services.rate_limits.count_request_of_key(caller.key_id, request.standings)
        if operation.scope not in caller.scopes:
            raise scope_is_missing(operation.scope)
        if operation.reach == "customer":
            caller.require_reach(request.customer_id)
        return await operation.handler(request, _read_query(operation, request))


async def _find_caller(operation: Operation, request: ApiRequest) -> Caller:
    """Who sent the `Authorization` header; on a page, without that header, who signed in. Raises ProblemError (401)."""
    authorization = request.fields.get(b"authorization")
    if operation.error_page is not None and authorization is None:
        caller = await request.services.sessions.find(request.cookies.get(SESSION_COOKIE))
        if caller is not None:
            return caller
    return await request.services.authenticator.find(authorization)


def _read_query(operation: Operation, request: ApiRequest) -> Struct | None:
    """The query as the operation's struct; None if it is ignored, or read by the page. Raises ProblemError (400)."""
    if operation.query is None:
        if operation.error_page is not None and b"%00" in request.scope["query_string"]:
            raise invalid_input("query", "must not hold NUL, which no stored text has")
        return None
    return read_query(request.scope["query_string"], operation.query)
