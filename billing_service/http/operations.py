"""What the service does, operation by operation: the one description that routes and all about them are made of."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeAlias

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Call

from billing_client.contract.query_parameters import NoQuery
from billing_service.http.auth import Callers
from billing_service.http.errors import EXPECTED_ERRORS, answer_error
from billing_service.http.rate_limits import Limits
from billing_service.http.requests import read_query
from billing_service.ledger.api_keys import Scope

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class SentDecimal:
    """In the place of a struct's decimals: as callers may send them."""


class PlainDecimal:
    """In the place of a struct's decimals: as they are answered."""


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one address. The handler's docstring says what it does, for a reader of the API too.

    `scope` is what a caller needs, None for an address that is open to all. A caller whose key is bound to a customer
    gets to no path of another's; of customers that a query or a body names the handler asks the caller itself.
    `body` is the struct that the body holds, `answer` the one of an answer with `status` and these `headers`, in the
    first of its `media_types`; `problems` are the codes it may refuse with, besides those that follow from the rest.
    """

    method: Literal["GET", "POST", "PATCH"]
    path: str
    handler: Callable[[Request, Any], Awaitable[Response]]
    tag: Literal["usage", "customers", "owed", "service"]
    scope: Scope | None
    idempotency_key: bool = False
    query: type[Struct] = NoQuery
    body: Any = None
    answer: Any = None
    status: int = 200
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)
    problems: tuple[str, ...] = ()

    @property
    def all_problems(self) -> tuple[str, ...]:
        """The codes of all problems it may answer with, but for faults of the service and heads that are too large."""
        implied = ["validation_error"]
        if self.body is not None:
            implied += ["payload_too_large", "unsupported_media_type"]
        if self.scope is not None:
            implied += ["unauthenticated", "forbidden", "rate_limited", "unavailable"]
        return (*implied, *self.problems)


def routes(operations: Iterable[Operation]) -> list[Route]:
    """The routes of these operations."""
    return [Route(operation.path, _endpoint(operation), methods=[operation.method]) for operation in operations]


def _endpoint(operation: Operation) -> Endpoint:
    handler, query = operation.handler, operation.query

    async def endpoint(request: Request) -> Response:
        return await handler(request, read_query(request, query))

    if operation.scope is None:
        return endpoint
    return _guarded(endpoint, operation.scope, of_customer="{customer_id:id}" in operation.path)


def _guarded(endpoint: Endpoint, scope: Scope, *, of_customer: bool) -> Endpoint:
    """The endpoint for those who are permitted, as long as there is room. What costs least is asked first."""

    async def guarded(request: Request) -> Response:
        state = request.app.state
        callers: Callers = state.callers
        limits: Limits | None = state.limits
        with state.slots:
            if limits is not None:
                await limits.count_call(request)
            caller = await callers.find(request)
            if limits is not None:
                await limits.count_caller(request, caller)
            caller.require_scope(scope)
            if of_customer:
                caller.require_reach(request.path_params["customer_id"])
            request.scope["caller"] = caller
            return await endpoint(request)

    return guarded


class FixedAddresses:
    """Answers at the addresses that hold no id, after one look-up; all others go Starlette's way.

    That way, past its routes and through two layers that handle errors, took a third of the CPU time of a request.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._endpoints: dict[tuple[str, bytes], Endpoint] = {
            (method, route.path.encode()): route.endpoint
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, call: Call, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((call["method"], call["raw_path"])) if call["type"] == "http" else None
        if endpoint is None:
            await self._app(call, receive, send)
            return
        call["endpoint"] = endpoint  # as Starlette's router does
        request = Request(call, receive, send)
        try:
            response = await endpoint(request)
        except EXPECTED_ERRORS as error:
            response = await answer_error(request, error)
        await response(call, receive, send)
