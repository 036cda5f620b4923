"""What the client does with statements: reads, issues and lists them, and has records proved."""

import asyncio
import time
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from billing_client._calls import ApiCall
from billing_client._encoding import encode_body, path_segment
from billing_client._errors import DeadlineExceededError
from billing_client._records import Statement
from billing_client._responses import Response, decode_response
from billing_client._transport import Transport
from billing_client.contract.statements.structs import (
    InclusionProof,
    IssuedStatement,
    IssuedStatements,
    IssueProgress,
    JsonWebKeySet,
    NewStatement,
    NewStatements,
    StatementProgress,
    StatementSummaries,
    StatementSummary,
)

T = TypeVar("T", bound=Struct)
_STATEMENT = msgspec.json.Decoder(Statement)
_ISSUED = msgspec.json.Decoder(IssuedStatements[Decimal])
_OVERVIEW = msgspec.json.Decoder(StatementSummaries[Decimal])
_PROGRESS = msgspec.json.Decoder(IssueProgress[Decimal])
_PREPARING = msgspec.json.Decoder(StatementProgress)
_PROOF = msgspec.json.Decoder(InclusionProof[Decimal])
_KEYS = msgspec.json.Decoder(JsonWebKeySet)
PAUSE_SECONDS = 1.0  # between two questions whether a statement is prepared, where the service does not say


class StatementCalls:
    """The methods of the client that are about statements."""

    _transport: Transport

    async def statement(
        self, *, customer_id: str, month: str, timezone: str = "UTC", since: str | None = None
    ) -> Statement:
        """Read the statement of a customer's month as it stands; as it was issued, if nothing has changed since.

        A month of very many records is prepared first. The call waits for that until the client's time-out.

        Args:
            customer_id: Whose month.
            month: The month, such as "2026-11".
            timezone: The IANA time zone in which the month begins and ends.
            since: The digest of an earlier statement of this month. `changes` then says what differs.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            StatementNotFoundError: No statement with the digest `since` was issued.
            ValidationError: An argument is not valid.
            DeadlineExceededError: It is still being prepared. Ask again; what was prepared stays.
        """
        query = {"month": month, "timezone": timezone} | ({"since": since} if since is not None else {})
        call = ApiCall("GET", f"/customers/{path_segment(customer_id)}/statement", query=query)
        return decode_response(_STATEMENT, await self._when_prepared(call), call)

    async def issue_statement(self, *, customer_id: str, month: str, timezone: str = "UTC") -> Statement:
        """Issue the statement of a month that is over.

        If nothing has changed since the last statement of the month, that one is returned. So the call can be repeated.

        Args:
            customer_id: Whose month.
            month: The month, such as "2026-11".
            timezone: The IANA time zone in which the month begins and ends.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            ResponseError: `code` is `month_not_over`; `billed_in_other_timezone` if a part of it was; `records_changed`
                if someone changed them in the database.
            ValidationError: An argument is not valid.
            DeadlineExceededError: It is still being prepared. Call again; what was prepared stays.
        """
        body = encode_body(NewStatement, month=month, timezone=timezone)
        call = ApiCall("POST", f"/customers/{path_segment(customer_id)}/statements", body)
        return decode_response(_STATEMENT, await self._when_prepared(call), call)

    async def issue_statements(
        self, *, month: str, timezone: str = "UTC", cursor: str | None = None
    ) -> AsyncGenerator[IssueProgress[Decimal], None]:
        """Issue the statements of all customers with usage in a month that is over, part by part.

        Customers whose statements could not be issued are in `failed` of a part, each with why; the others are issued.

        Args:
            month: The month, such as "2026-11".
            timezone: The IANA time zone in which the month begins and ends.
            cursor: Where to go on: the `next_cursor` of a part that was read before. By default it begins with the
                first customer, and leaves those as they are whose month has not changed since it was issued.

        Raises:
            ResponseError: `code` is `month_not_over`.
            ValidationError: An argument is not valid.
        """
        while True:
            body = encode_body(NewStatements, month=month, timezone=timezone, cursor=cursor)
            call = ApiCall("POST", "/statements", body)
            part = decode_response(_PROGRESS, await self._transport.send(call), call)
            yield part
            cursor = part.next_cursor
            if cursor is None:
                return

    async def issued_statements(
        self, *, customer_id: str, page_size: int = 100
    ) -> AsyncGenerator[IssuedStatement[Decimal], None]:
        """List the statements that were issued to a customer, by number. Pages are read as needed.

        Args:
            customer_id: Whose.
            page_size: How many statements one request asks for, 1 to 1,000.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
        """
        path = f"/customers/{path_segment(customer_id)}/statements"
        async for page in self._statement_pages(path, _ISSUED, {"limit": str(page_size)}):
            for issued in page.data:
                yield issued

    async def issued_statement(self, *, customer_id: str, statement: int | str) -> bytes:
        """Read a statement that was issued, as JSON: the same bytes each time. `verify_statement` checks it.

        Args:
            customer_id: Whose.
            statement: Its number, or its digest.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            StatementNotFoundError: No such statement was issued to the customer.
        """
        path = f"/customers/{path_segment(customer_id)}/statements/{path_segment(str(statement))}"
        return (await self._transport.send(ApiCall("GET", path))).body

    async def statement_overview(
        self, *, month: str, timezone: str = "UTC", page_size: int = 100
    ) -> AsyncGenerator[StatementSummary[Decimal], None]:
        """List the customers with usage in a month, with total and status, by customer id. Pages are read as needed.

        Args:
            month: The month, such as "2026-11".
            timezone: The IANA time zone in which the month begins and ends.
            page_size: How many customers one request asks for, 1 to 1,000.

        Raises:
            ValidationError: An argument is not valid.
        """
        query = {"month": month, "timezone": timezone, "limit": str(page_size)}
        async for page in self._statement_pages("/statements", _OVERVIEW, query):
            for summary in page.data:
                yield summary

    async def usage_proof(
        self, *, customer_id: str, request_id: str, digest: str, timezone: str = "UTC"
    ) -> InclusionProof[Decimal]:
        """Have it proved that a record counts in a statement. `check_inclusion` checks the proof.

        Args:
            customer_id: Whose record.
            request_id: The request id of the record.
            digest: The digest of a statement that was issued, or of the record's month as it stands.
            timezone: The IANA time zone of that month.

        Raises:
            UsageNotFoundError: The customer has no such record.
            StatementNotFoundError: There is no statement with this digest.
            NotFoundError: `code` is `usage_not_counted`: the statement does not count this record as it is stored.
        """
        path = f"/customers/{path_segment(customer_id)}/usage/{path_segment(request_id)}/proof"
        call = ApiCall("GET", path, query={"digest": digest, "timezone": timezone})
        return decode_response(_PROOF, await self._when_prepared(call), call)

    async def statement_keys(self) -> dict[str, Any]:
        """Read the public keys of statements' signatures, as a JSON Web Key Set (RFC 7517)."""
        call = ApiCall("GET", "/.well-known/jwks.json")
        keys = decode_response(_KEYS, await self._transport.send(call), call)
        found: dict[str, Any] = msgspec.to_builtins(keys)
        return found

    async def _statement_pages(
        self, path: str, decoder: "msgspec.json.Decoder[T]", query: dict[str, str]
    ) -> AsyncGenerator[T, None]:
        cursor: str | None = None
        while True:
            call = ApiCall("GET", path, query=query | ({} if cursor is None else {"cursor": cursor}))
            page = decode_response(decoder, await self._transport.send(call), call)
            yield page
            cursor = getattr(page, "next_cursor", None)
            if cursor is None:
                return

    async def _when_prepared(self, call: ApiCall) -> Response:
        """The response to a call, once what it asks for is prepared. Raises DeadlineExceededError."""
        deadline = time.monotonic() + self._transport.timeout
        while True:
            response = await self._transport.send(call)
            if response.status != 202:
                return response
            progress = decode_response(_PREPARING, response, call)
            pause = _seconds(response.headers.get("Retry-After"))
            if time.monotonic() + pause > deadline:
                detail = f"the statement is being prepared: {progress.prepared} of {progress.records} records"
                raise DeadlineExceededError(detail, **call.facts())
            await asyncio.sleep(pause)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else PAUSE_SECONDS
