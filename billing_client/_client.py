"""The client: a method for each thing the service does."""

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from billing_client import _batches
from billing_client._batches import UsageOutcome
from billing_client._calls import ApiCall
from billing_client._config import load_config
from billing_client._encoding import checked_key, encode_body, encode_usage, instant, path_segment, query_text
from billing_client._errors import DuplicateRecordError
from billing_client._records import CustomerSummary, DecimalLike, Statement, Summary, Usage, UsageRecord, VoidedUsage
from billing_client._responses import decode_line, decode_response
from billing_client._transport import Transport
from billing_client._version import __version__
from billing_client.contract.identity import new_customer_id
from billing_client.contract.wire import Customer, CustomerChange, NewCustomer, NewVoid
from billing_client.spooling.events import RecorderEvent
from billing_client.spooling.recorder import RecorderOptions, UsageRecorder

T = TypeVar("T", bound=Struct)


P = TypeVar("P", bound="_Page | Summary")
GroupBy = Literal["service", "hour", "day", "month"]


class _Page(Struct, rename="camel", kw_only=True):
    """A page of a list; `next_cursor` is None on the last."""

    next_cursor: str | None


class _UsagePage(_Page):
    data: list[UsageRecord]


class _CustomerPage(_Page):
    data: list[Customer]


class _SummaryPage(_Page):
    data: list[CustomerSummary]


_CUSTOMER = msgspec.json.Decoder(Customer)
_CUSTOMERS = msgspec.json.Decoder(_CustomerPage)
_RECORD = msgspec.json.Decoder(UsageRecord)
_RECORDS = msgspec.json.Decoder(_UsagePage)
_VOIDED = msgspec.json.Decoder(VoidedUsage)
_SUMMARY = msgspec.json.Decoder(Summary)
_STATEMENT = msgspec.json.Decoder(Statement)
_SUMMARIES = msgspec.json.Decoder(_SummaryPage)


class BillingSystemClient:
    """Reports usage to the billing service, each use once, over a network that fails.

    `base_url` and `api_key` come from `BILLING_BASE_URL` and `BILLING_API_KEY` where not given. `timeout` (seconds)
    is the one deadline over all attempts of a call. Every method raises BillingError or what it says; cancelling
    a call is safe: call again with the same `idempotency_key` or event id. All attempts of a call are in one trace,
    OpenTelemetry's where the application uses it; `trace_headers`, asked once for each call, is for other tracers.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_attempts: int = 20,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        trace_headers: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        config = load_config(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_attempts=max_attempts,
            max_connections=max_connections,
        )
        self._base_url = config.base_url
        self._transport = Transport(config, ssl_context, f"billing-client/{__version__}", trace_headers)

    def __repr__(self) -> str:
        return f"BillingSystemClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> "BillingSystemClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client cannot be used again."""
        await self._transport.close()

    async def record_usage(
        self,
        *,
        customer_id: str,
        service: str,
        units_consumed: DecimalLike,
        price_per_unit: DecimalLike,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        idempotency_key: str | None = None,
        on_duplicate: Literal["raise", "return"] = "raise",
    ) -> UsageRecord:
        """Record one use; when it returns, the record is stored. Its `outcome` says whether this call recorded it.

        `idempotency_key` names the call, a new one where not given; give the same to repeat a call whose outcome is
        unknown. Raises DuplicateRecordError where another call recorded the same usage, unless `on_duplicate` is
        "return"; EventIdConflictError, CustomerNotFoundError, ValidationError.
        """
        usage = Usage(
            customer_id=customer_id,
            service=service,
            units_consumed=units_consumed,
            price_per_unit=price_per_unit,
            event_id=event_id,
            occurred_at=occurred_at,
        )
        encoded = encode_usage(usage)
        call = ApiCall("POST", "/usage", encoded.body, checked_key(idempotency_key), encoded.request_id)
        try:
            response = await self._transport.send(call)
        except DuplicateRecordError as error:
            if on_duplicate == "raise":
                raise
            return error.existing
        record = decode_response(_RECORD, response, call)
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        return msgspec.structs.replace(record, outcome="replayed" if replayed else "recorded")

    def record_usages(
        self,
        usages: Iterable[Usage] | AsyncIterable[Usage],
        *,
        batch_size: int = 1_000,
        concurrency: int = 1,
        dry_run: bool = False,
        repeatable: bool = False,
    ) -> AsyncGenerator[UsageOutcome, None]:
        """Record any number of uses in batches, and give what became of each, in order.

        At most `concurrency` batches of `batch_size` (1 to 10,000) are held at a time, however many uses there are.
        With more than one on their way, either of two reports of the same usage in different batches may come first.
        With `dry_run` nothing is written, and `recordable` stands in the place of `recorded`. With `repeatable` the
        Idempotency-Key of each batch is made from what it holds: the same batches again, by another process after a
        crash perhaps, are a retry and count as `replayed`, not as `duplicate`. A use that is refused
        is an outcome with its error; what stops a whole batch is raised, and may have left later batches in doubt.
        """
        return _batches.record_usages(self._transport, usages, batch_size, concurrency, dry_run, repeatable)

    def recorder(
        self,
        *,
        spool: str | os.PathLike[str] | None = None,
        on_event: Callable[[RecorderEvent], None] | None = None,
        on_full: Literal["wait", "raise"] = "wait",
        max_records: int = 1_000_000,
        max_bytes: int = 256 * 1024 * 1024,
        batch_size: int = 1_000,
        close_timeout: float = 10.0,
    ) -> UsageRecorder:
        """A recorder, for an `async with` block: its `record()` returns when the usage is safe in the file `spool`, and
        it delivers in the background, while the service is away too, in batches of `batch_size` (1 to 10,000).

        Without `spool` the usage waits in memory, as safe as the process. At `max_records`, or `max_bytes` of their
        JSON, dead letters included, `record()` waits, or with `on_full="raise"` raises SpoolFullError. `on_event` is
        called for each attempt and each record that is delivered, a duplicate or dead. At its end the block delivers
        for at most `close_timeout` seconds. Raises ConfigurationError, and when the block begins SpoolError.
        """
        options = RecorderOptions(
            spool=None if spool is None else Path(spool),
            on_event=on_event,
            on_full=on_full,
            max_records=max_records,
            max_bytes=max_bytes,
            batch_size=batch_size,
            close_timeout=close_timeout,
        )
        return UsageRecorder(self._transport, options)

    async def get_usage(self, *, customer_id: str, request_id: str) -> UsageRecord:
        """One stored record. Raises UsageNotFoundError, CustomerNotFoundError."""
        path = f"/customers/{path_segment(customer_id)}/usage/{path_segment(request_id)}"
        return await self._get(path, _RECORD)

    async def usage(
        self,
        *,
        customer_id: str,
        service: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[UsageRecord, None]:
        """A customer's records by the time they occurred, `start` in and `end` out; pages are read as needed."""
        query = _span_query(service, start, end) | {"limit": str(page_size)}
        async for page in self._pages(f"/customers/{path_segment(customer_id)}/usage", _RECORDS, query):
            for record in page.data:
                yield record

    async def void_usage(
        self, *, customer_id: str, request_id: str, reason: str, voided_for: str | None = None
    ) -> VoidedUsage:
        """Take a record out of what is owed, for good; the record stays. A second void answers as the first.

        Raises UsageNotFoundError, CustomerNotFoundError, ValidationError.
        """
        path = f"/customers/{path_segment(customer_id)}/usage/{path_segment(request_id)}/void"
        body = encode_body(NewVoid, reason=reason, voided_for=voided_for)
        return await self._send(ApiCall("POST", path, body, request_id=request_id), _VOIDED)

    async def summary(
        self,
        *,
        customer_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[GroupBy] = (),
        timezone: str = "UTC",
    ) -> Summary:
        """What a customer's usage adds up to, `start` in and `end` out, by any of service, hour, day and month.

        Hours, days and months are those of an IANA time zone. Raises CustomerNotFoundError, ValidationError.
        """
        query = _summary_query(start, end, group_by, timezone)
        path = f"/customers/{path_segment(customer_id)}/summary"
        pages = [page async for page in self._pages(path, _SUMMARY, query)]
        return msgspec.structs.replace(pages[-1], groups=[group for page in pages for group in page.groups])

    async def summaries(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[GroupBy] = (),
        timezone: str = "UTC",
        page_size: int = 100,
    ) -> AsyncGenerator[CustomerSummary, None]:
        """What each customer's usage adds up to, by customer id; pages are read as needed."""
        query = _summary_query(start, end, group_by, timezone) | {"limit": str(page_size)}
        last: CustomerSummary | None = None
        async for page in self._pages("/summary", _SUMMARIES, query):
            for customer in page.data:
                if last is not None and last.customer_id == customer.customer_id:
                    last = msgspec.structs.replace(customer, groups=last.groups + customer.groups)
                    continue
                if last is not None:
                    yield last
                last = customer
        if last is not None:
            yield last

    async def statement(
        self, *, customer_id: str, month: str, timezone: str = "UTC", since: str | None = None
    ) -> Statement:
        """A customer's month (2026-11) in an IANA time zone; with the digest of an earlier one, what `changes` since.

        Raises CustomerNotFoundError, ValidationError; StatementNotFoundError where no such statement was issued.
        """
        query = {"month": month, "timezone": timezone} | ({"since": since} if since is not None else {})
        return await self._get(f"/customers/{path_segment(customer_id)}/statement", _STATEMENT, query)

    async def export_usage(
        self,
        *,
        customer_id: str | None = None,
        service: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> AsyncGenerator[UsageRecord, None]:
        """All records, or one customer's, as one stream in constant memory; `start` is in, `end` is out.

        Raises CustomerNotFoundError; TransportError where the stream breaks off, so an end is always the end.
        """
        call = _export_call(customer_id, service, start, end, "ndjson")
        async with aclosing(self._transport.stream(call)) as lines:
            async for line in lines:
                yield decode_line(_RECORD, line, call)

    async def export_lines(
        self,
        *,
        format: Literal["ndjson", "csv"] = "ndjson",  # noqa: A002 - the name that the service has for it
        customer_id: str | None = None,
        service: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """What `export_usage` reads, as the lines that the service sends. Raises what it raises."""
        call = _export_call(customer_id, service, start, end, format)
        async with aclosing(self._transport.stream(call)) as lines:
            async for line in lines:
                yield line

    async def create_customer(self, *, name: str, customer_id: str | None = None) -> Customer:
        """Add a customer, under a new id where none is given. Raises CustomerExistsError."""
        body = encode_body(NewCustomer, name=name, id=new_customer_id() if customer_id is None else customer_id)
        return await self._send(ApiCall("POST", "/customers", body, str(uuid4())), _CUSTOMER)

    async def get_customer(self, *, customer_id: str) -> Customer:
        """One customer. Raises CustomerNotFoundError."""
        return await self._get(f"/customers/{path_segment(customer_id)}", _CUSTOMER)

    async def update_customer(self, *, customer_id: str, name: str) -> Customer:
        """Change a customer's name. Raises CustomerNotFoundError."""
        body = encode_body(CustomerChange, name=name)
        return await self._send(ApiCall("PATCH", f"/customers/{path_segment(customer_id)}", body), _CUSTOMER)

    async def customers(self, *, page_size: int = 100) -> AsyncGenerator[Customer, None]:
        """All customers by id; pages are read as needed."""
        async for page in self._pages("/customers", _CUSTOMERS, {"limit": str(page_size)}):
            for customer in page.data:
                yield customer

    async def _pages(
        self, path: str, decoder: "msgspec.json.Decoder[P]", query: dict[str, str]
    ) -> AsyncGenerator[P, None]:
        page = await self._get(path, decoder, query)
        yield page
        while page.next_cursor is not None:
            page = await self._get(path, decoder, query | {"cursor": page.next_cursor})
            yield page

    async def _get(self, path: str, decoder: "msgspec.json.Decoder[T]", query: dict[str, str] | None = None) -> T:
        return await self._send(ApiCall("GET", path, query=query or {}), decoder)

    async def _send(self, call: ApiCall, decoder: "msgspec.json.Decoder[T]") -> T:
        return decode_response(decoder, await self._transport.send(call), call)


def _span_query(service: str | None, start: datetime | None, end: datetime | None) -> dict[str, str]:
    query = {"service": query_text("service", service)} if service is not None else {}
    query |= {"from": instant(start)} if start is not None else {}
    return query | ({"to": instant(end)} if end is not None else {})


def _export_call(
    customer_id: str | None, service: str | None, start: datetime | None, end: datetime | None, format_: str
) -> ApiCall:
    query = {"customerId": query_text("customerId", customer_id)} if customer_id is not None else {}
    query |= _span_query(service, start, end) | {"format": format_}
    return ApiCall("GET", "/usage/export", query=query)


def _summary_query(
    start: datetime | None, end: datetime | None, group_by: Sequence[GroupBy], timezone: str
) -> dict[str, str]:
    query = {"timezone": timezone} | ({"groupBy": ",".join(group_by)} if group_by else {})
    return query | _span_query(None, start, end)
