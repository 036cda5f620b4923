"""The request that handlers are given: its caller, ids and body, and the services."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from billing_client.contract.request_parsing import check_body_type, read_key
from billing_service.database.pool import Connection
from billing_service.database.replication import read_lag
from billing_service.http.admission import SMALL_BODY_BYTES
from billing_service.http.auth import ANYBODY, Caller
from billing_service.http.connections.exchange import EXTENSION, Exchange
from billing_service.http.errors import ProblemError, invalid_input, problem
from billing_service.http.limits.standings import Standing, address_of
from billing_service.http.services import Services
from billing_service.telemetry.request_log import RequestInfo

LAG_HEADER = "Replica-Lag"
DISCARD_SECONDS = 5  # how long the rest of a refused body is read
FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_BYTES, MAX_FORM_FIELDS = 64 * 1024, 100
DISCARD_LIMITS = 8  # how much of it at most, in multiples of `max_body_bytes`


class ApiRequest(Request):
    """One request.

    Attributes:
        services: The parts of the service.
        info: What the log, metrics and traces say about the request.
        fields: The headers by lower-case name. Several headers of one name are joined by commas (RFC 9110, section
            5.3).
        caller: Who makes the request; anonymous until the caller is authenticated.
        ids: The ids in the path, percent-decoded, by their names in the operation's path.
        held_bytes: How many bytes the body has charged to the body budget.
        exchange: The request on its connection; None under another server.
        standings: What the caller has left of the rate limits that it was counted against.
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
        self.exchange: Exchange | None = scope.get(EXTENSION)

    @property
    def customer_id(self) -> str:
        """The customer in the path."""
        return self.ids["customer_id"]

    @property
    def address(self) -> str:
        """The client's address that rate limits count."""
        client = self.scope["client"]
        return "local" if client is None else address_of(client[0])

    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key`; None without one. Raises ProblemError (400) if it is not valid."""
        value = self.fields.get(b"idempotency-key")
        return None if value is None else read_key([value.decode("latin-1")])

    async def read_json(self) -> bytes:
        """Read the body of a JSON request.

        Raises:
            ProblemError: 400 if it is empty, 413 if it is larger than `max_body_bytes`, 415 if its headers do not say
                JSON in UTF-8, 503 if the body budget is used up.
        """
        _check_body_type(self.fields.get(b"content-type"), self.fields.get(b"content-encoding"))
        limit = self.services.settings.max_body_bytes
        body = None if self.exchange is None else self.exchange.take_body(min(SMALL_BODY_BYTES, limit))
        if body is None:
            with self.services.admission.while_receiving:
                body = await self._receive_body(limit)
        if not body:
            raise invalid_input("", "is empty, but must be a JSON object")
        return body

    async def read_form(self) -> dict[str, str]:
        """Read the fields of an HTML form; one that is left empty is not among them.

        Raises:
            ProblemError: 400 if it is no form in UTF-8, 413 if it is larger than a form may be, 415 if its Content-Type
                is not that of a form.
        """
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
            raise ProblemError(problem("unsupported_media_type", f"Send the form as {FORM_TYPE}."))
        with self.services.admission.while_receiving:
            body = await self._receive_body(MAX_FORM_BYTES)
        try:
            fields = parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_FORM_FIELDS)
        except ValueError as error:
            raise invalid_input("", f"must be a form of at most {MAX_FORM_FIELDS} fields in UTF-8") from error
        return dict(fields)

    async def count_records(self, records: int) -> None:
        """Count records against the rate limits, whatever their outcome. Raises ProblemError (429)."""
        if self.services.rate_limits is not None:
            key_id = self.caller.key_id
            await self.services.rate_limits.count_records(self.address, key_id, records, self.standings)

    async def replica_lag(self, connection: Connection) -> dict[str, str]:
        """The header that says how many seconds a connection of `read_database` is behind at most.

        No header if there is no such database of its own, or if the standby has applied nothing yet.
        """
        if self.services.read_database is self.services.database:
            return {}
        lag = await read_lag(connection)
        return {} if lag is None else {LAG_HEADER: f"{lag:.3f}"}

    async def _receive_body(self, limit: int) -> bytes:
        if b"expect" in self.fields and int(self.fields.get(b"content-length", b"0")) > limit:
            # refused before the caller is told to send it (RFC 9110, section 10.1.1)
            raise ProblemError(_too_large(limit).details, {"Connection": "close"})
        body, more = bytearray(), True  # one piece: a list of tiny chunks takes twenty times their bytes
        try:
            while more:  # does what `self.stream()` does, which takes 0.8 µs longer for a body in one piece
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk, more = message["body"], message["more_body"]
                body += chunk
                if more or len(body) > min(SMALL_BODY_BYTES, limit):
                    self._hold(len(body), limit)
        except ProblemError as error:  # see `_discard` for why the rest of the body is read first
            body.clear()
            self.release_body()
            if more:
                await _discard(self.stream(), limit)
            raise ProblemError(error.details, {**(error.headers or {}), "Connection": "close"}) from error
        return bytes(body)

    def _hold(self, size: int, limit: int) -> None:
        """Charge a body that now has `size` bytes to the body budget. Raises ProblemError (413, 503)."""
        if size > limit:
            raise _too_large(limit)
        received, self.held_bytes = size - self.held_bytes, size
        self.services.body_budget.charge(self._holder, received, size)

    @property
    def _holder(self) -> str:
        return self.caller.key_id or self.address

    def release_body(self) -> None:
        """Release what the body charged to the body budget. Called when the request is answered."""
        if self.held_bytes:
            self.services.body_budget.release(self._holder, self.held_bytes)
            self.held_bytes = 0


@lru_cache(100)
def _check_body_type(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Raise ProblemError (415) unless these headers say that the body is JSON in UTF-8."""
    values = (None if value is None else value.decode("latin-1") for value in (content_type, content_encoding))
    check_body_type(*values)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(problem("payload_too_large", f"A body may have {limit} bytes at most."))


async def _discard(stream: AsyncIterator[bytes], limit: int) -> None:
    """Read and discard the rest of a body, within limits.

    If the connection were closed while the client still sends, the response could be lost (RFC 9112, section 9.6).
    """
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > DISCARD_LIMITS * limit:
                    return
