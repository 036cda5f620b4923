"""A request as handlers get it: its caller, its ids, its body, and the services to answer it with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from billing_client.contract import request_parsing
from billing_client.contract.request_parsing import check_body_type, read_key
from billing_service.http.auth import ANYBODY, Caller
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.rate_limits import Standing, address_of
from billing_service.http.services import Services
from billing_service.telemetry.request_log import RequestInfo

Q = TypeVar("Q", bound=Struct)
DISCARD_SECONDS, DISCARD_LIMITS = 5, 8


class ApiRequest(Request):
    """One request.

    Attributes:
        services: The parts of the service.
        info: What log, metrics and traces say of the request.
        caller: Who makes the request; anybody until the operation's scope was checked.
        ids: The ids in the path, percent-decoded, by the names in the operation's path.
        standings: Where the caller stands with the rate limits that it was counted against.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, services: Services, info: RequestInfo) -> None:
        super().__init__(scope, receive, send)
        self.services = services
        self.info = info
        self.caller: Caller = ANYBODY
        self.ids: Mapping[str, str] = {}
        self.standings: list[Standing] = []
        self._held_bytes = 0

    @property
    def customer_id(self) -> str:
        """The customer in the path."""
        return self.ids["customer_id"]

    @property
    def address(self) -> str:
        """The address of the peer that counts for rate limits."""
        client = self.scope["client"]
        return "local" if client is None else address_of(client[0])

    def header_values(self, name: bytes) -> list[bytes]:
        """All values of a header, in lower case."""
        return [value for header, value in self.scope["headers"] if header == name]

    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key`. Raises ProblemError (400)."""
        return read_key([value.decode("latin-1") for value in self.header_values(b"idempotency-key")])

    def read_query(self, struct: type[Q]) -> Q:
        """The query as a struct. Raises ProblemError (400) for a parameter that is unknown, repeated or not valid."""
        return request_parsing.read_query(self.scope["query_string"], struct)

    async def read_json(self) -> bytes:
        """The body of a JSON request, at most `max_body_bytes` of it. Raises ProblemError (400, 413, 415)."""
        headers = dict(self.scope["headers"])
        check_body_type(_text(headers.get(b"content-type")), _text(headers.get(b"content-encoding")))
        with self.services.admission.while_receiving:
            return await self._receive_body(self.services.settings.max_body_bytes)

    async def count_records(self, records: int) -> None:
        """Count records against the rate limits, whatever becomes of them. Raises ProblemError (429)."""
        if self.services.rate_limits is not None:
            key_id = self.caller.key_id
            await self.services.rate_limits.count_records(self.address, key_id, records, self.standings)

    async def _receive_body(self, limit: int) -> bytes:
        chunks, size, more = [], 0, True
        try:
            while more:  # as in `self.stream()`, which takes 0.8 µs longer for a body that came whole
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk, more = message["body"], message["more_body"]
                size += len(chunk)
                self._hold(len(chunk), size, limit)
                chunks.append(chunk)
        except ProblemError as error:  # answered only once the sender has had time to end, or the answer is lost
            chunks.clear()
            self.release_body()
            if more:
                await _discard(self.stream(), limit)
            raise ProblemError(error.details, {**(error.headers or {}), "Connection": "close"}) from error
        if size == 0:
            raise invalid_input("", "is empty, but must be a JSON object")
        return b"".join(chunks)

    def _hold(self, received: int, size: int, limit: int) -> None:
        """Charge what was received to the budget for bodies. Raises ProblemError (413, 503)."""
        if size > limit:
            raise ProblemError(problem("payload_too_large", f"A body may have {limit} bytes at most."))
        self._held_bytes = size
        self.services.body_budget.charge(self._holder, received, size)

    @property
    def _holder(self) -> str:
        return self.caller.key_id or self.address

    def release_body(self) -> None:
        """Give back what the body took of the budget for bodies, once the request is answered."""
        if self._held_bytes:
            self.services.body_budget.release(self._holder, self._held_bytes)
            self._held_bytes = 0


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


async def _discard(stream: AsyncIterator[bytes], limit: int) -> None:
    """Read on for a while: a connection closed under a sender loses the answer (RFC 9112, section 9.6)."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > DISCARD_LIMITS * limit:
                    return
