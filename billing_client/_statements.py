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
from billing_client._records import Statement, Summary
from billing_client._responses import Progress, Response, decode_response, require_about, unexpected
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


class Page(Struct, rename="camel", kw_only=True):
    """A page of a list. `next_cursor` is None on the last page."""

    data: Any
    next_cursor: str | None


class _Named(Struct, rename="camel"):
    """What names a statement that was issued."""

    customer_id: str
    digest: str
    number: int | None = None


P = TypeVar("P", bound="Page | Summary | IssuedStatements[Decimal] | StatementSummaries[Decimal]")
_NAMED = msgspec.json.Decoder(_Named)
_STATEMENT = msgspec.json.Decoder(Statement)
_ISSUED = msgspec.json.Decoder(IssuedStatements[Decimal])
_OVERVIEW = msgspec.json.Decoder(StatementSummaries[Decimal])
_PROGRESS = msgspec.json.Decoder(IssueProgress[Decimal])
_PREPARING = msgspec.json.Decoder(StatementProgress)
_PROOF = msgspec.json.Decoder(InclusionProof[Decimal])
_KEYS = msgspec.json.Decoder(JsonWebKeySet)
LEAST_PAUSE_SECONDS = 0.1
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
        found = decode_response(_STATEMENT, await self._when_prepared(call), call)
        require_about(found, call, customer_id=customer_id, month=month, timezone=timezone)
        return found

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
        found = decode_response(_STATEMENT, await self._when_prepared(call), call)
        require_about(found, call, customer_id=customer_id, month=month, timezone=timezone, status="issued")
        return found

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
        progress = Progress()
        while True:
            body = encode_body(NewStatements, month=month, timezone=timezone, cursor=cursor)
            call = ApiCall("POST", "/statements", body)
            part = decode_response(_PROGRESS, await self._transport.send(call), call)
            for issued in part.issued:
                require_about(issued, call, month=month, timezone=timezone)
            progress.require(bool(part.issued or part.unchanged or part.failed), _place(part), call)
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
        async for page, call in self._pages(path, _ISSUED, {"limit": str(page_size)}):
            for issued in page.data:
                require_about(issued, call, customer_id=customer_id)
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
        call = ApiCall("GET", path)
        response = await self._transport.send(call)
        named = decode_response(_NAMED, response, call)
        require_about(named, call, customer_id=customer_id)
        if str(statement) not in (named.digest, str(named.number)):
            raise unexpected("the response is another statement than the one that was asked for", response, call)
        return response.body

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
        async for page, call in self._pages("/statements", _OVERVIEW, query):
            for summary in page.data:
                require_about(summary, call, month=month, timezone=timezone)
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
        proof = decode_response(_PROOF, await self._when_prepared(call), call)
        require_about(proof, call, digest=digest)
        require_about(proof.record, call, customer_id=customer_id, request_id=request_id)
        return proof

    async def statement_keys(self) -> dict[str, Any]:
        """Read the public keys of statements' signatures, as a JSON Web Key Set (RFC 7517)."""
        call = ApiCall("GET", "/.well-known/jwks.json")
        keys = decode_response(_KEYS, await self._transport.send(call), call)
        found: dict[str, Any] = msgspec.to_builtins(keys)
        return found

    async def _pages(
        self, path: str, decoder: "msgspec.json.Decoder[P]", query: dict[str, str]
    ) -> AsyncGenerator[tuple[P, ApiCall], None]:
        """The pages of a list, each with the call that it answers. Raises UnexpectedResponseError if it has no end."""
        progress, cursor = Progress(), None
        while True:
            call = ApiCall("GET", path, query=query | ({} if cursor is None else {"cursor": cursor}))
            page = decode_response(decoder, await self._transport.send(call), call)
            cursor = page.next_cursor
            if cursor is not None:
                progress.require(page.groups if isinstance(page, Summary) else page.data, cursor, call)
            yield page, call
            if cursor is None:
                return

    async def _when_prepared(self, call: ApiCall) -> Response:
        """The response to a call, once what it asks for is prepared. Raises DeadlineExceededError."""
        deadline = time.monotonic() + self._transport.timeout
        response = await self._transport.send(call)
        while response.status == 202:
            progress = decode_response(_PREPARING, response, call)
            pause = _seconds(response.headers.get("Retry-After"))
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await asyncio.sleep(pause)
                    response = await self._transport.send(call)
            except TimeoutError as error:
                detail = f"the statement is being prepared: {progress.prepared} of {progress.records} records"
                raise DeadlineExceededError(detail, **call.facts()) from error
        return response


def _seconds(text: str | None) -> float:
    asked = float(text) if text is not None and text.isdecimal() else PAUSE_SECONDS
    return max(asked, LEAST_PAUSE_SECONDS)


def _place(part: IssueProgress[Decimal]) -> tuple[str | None, int]:
    """How far the issue of statements is: at which customer, and how much of the month is prepared."""
    return part.next_cursor, 0 if part.preparing is None else part.preparing.prepared
