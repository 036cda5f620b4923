"""A request as handlers get it: its caller, its ids, its body, and the services to answer it with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from billing_client.contract.request_parsing import check_body_type, read_key
from billing_service.http.admission import SMALL_BODY_BYTES
from billing_service.http.auth import ANYBODY, Caller
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.rate_limits import Standing, address_of
from billing_service.http.services import Services
from billing_service.telemetry.request_log import RequestInfo

DISCARD_SECONDS, DISCARD_LIMITS = 5, 8


class ApiRequest(Request):
    """One request.

    Attributes:
        services: The parts of the service.
        info: What log, metrics and traces say of the request.
        fields: The headers by lower-case name; several of one name are joined by commas (RFC 9110, section 5.3).
        caller: Who makes the request; anybody until the operation's scope was checked.
        ids: The ids in the path, percent-decoded, by the names in the operation's path.
        held_bytes: What the body has taken of the budget for bodies.
        standings: Where the caller stands with the rate limits that it was counted against.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        services: Services,
        info: RequestInfo,
        fields: Mapping[bytes, bytes],
    ) -> None:
        super().__init__(scope, receive, send)
        self.services = services
        self.info = info
        self.fields = fields
        self.caller: Caller = ANYBODY
        self.ids: Mapping[str, str] = {}
        self.standings: list[Standing] = []
        self.held_bytes = 0

    @property
    def customer_id(self) -> str:
        """The customer in the path."""
        return self.ids["customer_id"]

    @property
    def address(self) -> str:
        """The address of the peer that counts for rate limits."""
        client = self.scope["client"]
        return "local" if client is None else address_of(client[0])

    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key`. Raises ProblemError (400)."""
        value = self.fields.get(b"idempotency-key")
        return None if value is None else read_key([value.decode("latin-1")])

    async def read_json(self) -> bytes:
        """The body of a JSON request, at most `max_body_bytes` of it.

        Raises ProblemError: 400 for an empty body, 413 for one that is too large, 415 for one that is no JSON, 503
        where the service holds as many bytes of bodies as it may.
        """
        _check_body_type(self.fields.get(b"content-type"), self.fields.get(b"content-encoding"))
        with self.services.admission.while_receiving:
            body = await self._receive_body(self.services.settings.max_body_bytes)
        if not body:
            raise invalid_input("", "is empty, but must be a JSON object")
        return body

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
                if more or size > min(SMALL_BODY_BYTES, limit):
                    self._hold(size, limit)
                chunks.append(chunk)
        except ProblemError as error:  # answered only once the sender has had time to end, or the answer is lost
            chunks.clear()
            self.release_body()
            if more:
                await _discard(self.stream(), limit)
            raise ProblemError(error.details, {**(error.headers or {}), "Connection": "close"}) from error
        return b"".join(chunks)

    def _hold(self, size: int, limit: int) -> None:
        """Charge what came of a body to the budget for bodies. Raises ProblemError (413, 503)."""
        if size > limit:
            raise ProblemError(problem("payload_too_large", f"A body may have {limit} bytes at most."))
        received, self.held_bytes = size - self.held_bytes, size
        self.services.body_budget.charge(self._holder, received, size)

    @property
    def _holder(self) -> str:
        return self.caller.key_id or self.address

    def release_body(self) -> None:
        """Give back what the body took of the budget for bodies, once the request is answered."""
        if self.held_bytes:
            self.services.body_budget.release(self._holder, self.held_bytes)
            self.held_bytes = 0


@lru_cache(100)
def _check_body_type(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Raise ProblemError (415) unless a body is JSON in UTF-8, and its headers say so."""
    values = (None if value is None else value.decode("latin-1") for value in (content_type, content_encoding))
    check_body_type(*values)


async def _discard(stream: AsyncIterator[bytes], limit: int) -> None:
    """Read on for a while: a connection closed under a sender loses the answer (RFC 9112, section 9.6)."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > DISCARD_LIMITS * limit:
                    return
