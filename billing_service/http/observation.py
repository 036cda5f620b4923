"""What is noted of each request, whatever becomes of it."""

import re
import secrets
import time
from collections.abc import Awaitable
from itertools import count

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billing_service.telemetry.logs import FAILED
from billing_service.telemetry.request_log import Journal
from billing_service.telemetry.tracing import read_trace_id

_REQUEST_ID = re.compile(rb"[\w.:~+/=@-]{1,128}", re.ASCII)
_OF_THIS_PROCESS = secrets.token_hex(6)
_numbers = count(1)


class Observe:
    """Times each request, whatever becomes of it, and names it: by the caller's `X-Request-Id` where that is sane.

    The name goes with the answer.
    """

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{_OF_THIS_PROCESS}-{next(_numbers):x}".encode()
        scope["billing.http_request_id"] = request_id
        if b"traceparent" in headers and "billing.trace_id" not in scope:
            scope["billing.trace_id"] = read_trace_id(headers[b"traceparent"])
        status = FAILED  # what is answered to an exception that comes as far as here

        def note(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            return send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            scope["billing.code"] = "internal_error"
            error.add_note(f"http_request_id {request_id.decode()}, trace_id {scope.get('billing.trace_id')}")
            raise
        finally:
            self._journal.add(scope, status, time.perf_counter() - started)
