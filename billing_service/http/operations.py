"""The operations of the service: one description, which routing, authorization and the OpenAPI document are made of."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.query_parameters import NoQuery
from billing_client.contract.request_parsing import read_query
from billing_service.http.auth import scope_is_missing
from billing_service.http.requests import ApiRequest
from billing_service.ledger.api_keys import Scope

_NO_QUERY = NoQuery()
Method = Literal["GET", "POST", "PATCH", "DELETE"]


class SentDecimal:
    """Stands for a struct's decimals, as callers may send them."""


class PlainDecimal:
    """Stands for a struct's decimals, as they are answered."""


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one address. The handler's docstring says what it does, for a reader of the API too.

    Attributes:
        method: The HTTP method. `HEAD` is answered wherever `GET` is.
        path: The address, with the names of its ids in braces: `/customers/{customer_id}`.
        handler: Answers a request whose caller was let in.
        tag: The heading in the API's description.
        scope: What the caller's API key must permit; None for an address that is open to all.
        reach: How a key that is bound to a customer is held to that customer. `customer`: the id in the path must be
            its own. `handler`: the handler sees to it, since body, query or answer name the customers.
            `open`: nothing here is any customer's.
        idempotency_key: Whether the operation reads the `Idempotency-Key`.
        query: The query parameters; None where they are ignored.
        body: The struct that the body holds.
        answer: The struct of an answer with `status`, in the first of its `media_types`.
        status: The status of success.
        headers: The names of headers that an answer may have besides those of every answer.
        media_types: The forms of the answer.
        problems: The codes that it may refuse with, besides those that follow from the rest.
        documented: Whether the API's description shows it.
    """

    method: Method
    path: str
    handler: Callable[[ApiRequest, Any], Awaitable[Response]]
    tag: Literal["usage", "customers", "owed", "keys", "service"]
    scope: Scope | None
    reach: Literal["customer", "handler", "open"]
    idempotency_key: bool = False
    query: type[Struct] | None = NoQuery
    body: Any = None
    answer: Any = None
    status: int = 200
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)
    problems: tuple[str, ...] = ()
    documented: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError where `reach` and the rest contradict each other."""
        if (self.reach == "customer") != (self.scope is not None and "{customer_id}" in self.path):
            raise ValueError(f"{self.path}: reach is `customer` just where there is a scope and a {{customer_id}}")
        if (self.reach == "open") != (self.scope is None):
            raise ValueError(f"{self.path}: reach is `open` where there is no scope")

    @property
    def all_problems(self) -> tuple[str, ...]:
        """The codes of all problems it may answer with, but for faults of the service and heads that are too large."""
        implied = ["validation_error"]
        if self.body is not None:
            implied += ["payload_too_large", "unsupported_media_type"]
        if self.scope is not None:
            implied += ["unauthenticated", "forbidden", "rate_limited", "unavailable"]
        return (*implied, *self.problems)


async def answer_operation(operation: Operation, request: ApiRequest) -> Response:
    """Let the caller in and call the handler. What costs least is asked first. Raises ProblemError."""
    if operation.scope is None:
        return await _call_handler(operation, request)
    services = request.services
    with services.admission:
        if services.rate_limits is not None:
            await services.rate_limits.count_request_of_address(request.address, request.standings)
        request.caller = caller = await services.authenticator.find(request.fields.get(b"authorization"))
        request.info.key_id = caller.key_id
        if services.rate_limits is not None:
            await services.rate_limits.count_request_of_key(caller.key_id, request.standings)
        if operation.scope not in caller.scopes:
            raise scope_is_missing(operation.scope)
        if operation.reach == "customer":
            caller.require_reach(request.customer_id)
        return await _call_handler(operation, request)


async def _call_handler(operation: Operation, request: ApiRequest) -> Response:
    query_string: bytes = request.scope["query_string"]
    if operation.query is None:
        return await operation.handler(request, None)
    if operation.query is NoQuery and not query_string:
        return await operation.handler(request, _NO_QUERY)
    return await operation.handler(request, read_query(query_string, operation.query))
