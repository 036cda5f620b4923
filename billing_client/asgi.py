"""Middleware that meters the requests of an ASGI application: Starlette, FastAPI, or any other."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client._records import Usage
from billing_client.metering import meter
from billing_client.spooling.recorder import UsageRecorder

__all__ = ["MeteredRequest", "MeteredResponse", "UsageMiddleware", "meter"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ID_IN_SCOPE = "billing.request_id"
LONGEST_ID = 100  # so that a use can add something to it


class MeteredRequest(Struct, frozen=True, kw_only=True):
    """A request that has ended.

    Attributes:
        id: Its id: that of the header `request_id_header`, or a new UUID.
        method: Its method, such as "GET".
        path: Its path, decoded, without the query.
        headers: Its headers by lower-case name, the last of each name.
        bytes_received: How many bytes of its body the application read.
        scope: The ASGI scope, in which the application left what it found out: `scope["path_params"]`, `scope["user"]`.
    """

    id: str
    method: str
    path: str
    headers: Mapping[str, str]
    bytes_received: int
    scope: Scope


class MeteredResponse(Struct, frozen=True, kw_only=True):
    """What was answered, as far as it went.

    Attributes:
        status: The status; None if the application failed before it answered.
        headers: The headers by lower-case name, the last of each name.
        bytes_sent: How many bytes of the body the server took before the client hung up.
        is_complete: Whether the whole body was sent.
        milliseconds: How long it took, from the request's head to the end of the application's work.
    """

    status: int | None
    headers: Mapping[str, str]
    bytes_sent: int
    is_complete: bool
    milliseconds: int


class UsageMiddleware:
    """Records what each HTTP request used when it has ended, however it ended.

    An event id is given to usage without one: the id of the request; if a request has several uses, a slash and their
    numbers follow. The application finds the id in its scope, as `billing.request_id`.

    Args:
        app: The application.
        recorder: The recorder, which must be open while requests are served: open it in the application's lifespan.
        usage: Called at the end of each request: what it used, as one Usage or several; None if it is free. It gets a
            MeteredRequest and a MeteredResponse.
        request_id_header: A header that holds the id of a request, such as "X-Request-ID". Name one only if your own
            proxy sets it on each request: who can choose the id can have two requests count as one. By default each
            request gets a new id.

    Raises:
        BillingError: What `UsageRecorder.record_many` raises: the server logs it. The answer was sent before.
    """

    def __init__(
        self,
        app: Application,
        recorder: UsageRecorder,
        usage: Callable[[MeteredRequest, MeteredResponse], Usage | Iterable[Usage] | None],
        *,
        request_id_header: str | None = None,
    ) -> None:
        self._app = app
        self._recorder = recorder
        self._usage = usage
        self._id_header = request_id_header.lower() if request_id_header is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, self._id_header)
        async with meter(self._recorder) as metered:
            try:
                await self._app(scope, exchange.receiving(receive), exchange.sending(send))
            finally:
                metered.record(*self._used(exchange))

    def _used(self, exchange: "_Exchange") -> list[Usage]:
        request = exchange.request()
        used = self._usage(request, exchange.response())
        if used is None or isinstance(used, Usage):
            return [] if used is None else [_named(used, request.id)]
        return [_named(each, f"{request.id}/{number}") for number, each in enumerate(used)]


class _Exchange:
    """A request and its answer, watched as they pass."""

    def __init__(self, scope: Scope, id_header: str | None) -> None:
        self._scope = scope
        self._began = time.monotonic()
        self._headers = _by_name(scope["headers"])
        given = self._headers.get(id_header, "") if id_header is not None else ""
        self._id = given if 0 < len(given) <= LONGEST_ID and given.isprintable() else str(uuid4())
        self._received = self._sent = 0
        self._status: int | None = None
        self._answered: Mapping[str, str] = {}
        self._is_complete = self._has_hung_up = False
        scope[ID_IN_SCOPE] = self._id
        if "http.response.pathsend" in (
            extensions := scope.get("extensions") or {}
        ):  # else the bytes would pass unseen
            scope["extensions"] = {
                name: value for name, value in extensions.items() if name != "http.response.pathsend"
            }

    def receiving(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            self._received += len(message.get("body", b""))
            self._has_hung_up |= message["type"] == "http.disconnect"
            return message

        return watched

    def sending(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._status = message["status"]
                self._answered = _by_name(message.get("headers", ()))
            elif message["type"] == "http.response.body" and not self._has_hung_up:
                self._sent += len(message.get("body", b""))
                self._is_complete = not message.get("more_body", False)

        return watched

    def request(self) -> MeteredRequest:
        return MeteredRequest(
            id=self._id,
            method=self._scope["method"],
            path=self._scope["path"],
            headers=self._headers,
            bytes_received=self._received,
            scope=self._scope,
        )

    def response(self) -> MeteredResponse:
        return MeteredResponse(
            status=self._status,
            headers=self._answered,
            bytes_sent=self._sent,
            is_complete=self._is_complete,
            milliseconds=int((time.monotonic() - self._began) * 1000),
        )


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _named(usage: Usage, event_id: str) -> Usage:
    return usage if usage.event_id is not None else msgspec.structs.replace(usage, event_id=event_id)
