"""What the client reads of the service: records, customers, summaries, exports; for statements see _statements."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Literal, NamedTuple, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, field

from billing_client._calls import ApiCall
from billing_client._encoding import instant, path_segment, query_text
from billing_client._errors import UnexpectedResponseError
from billing_client._events import ServiceEvent, watch
from billing_client._records import CustomerSummary, Summary, UsageRecord
from billing_client._responses import decode_line, decode_record, decode_response, require_about
from billing_client._statements import Page, StatementCalls
from billing_client._transport import Transport
from billing_client.contract.query_parameters import DIMENSION, EXPORT_TYPES, RefusalCode
from billing_client.contract.wire import Customer, Refusal, RefusalCount, RefusalCounts

T = TypeVar("T", bound=Struct)
GroupBy: TypeAlias = Literal["service", "hour", "day", "month"] | str
"""What a summary tells apart; a dimension is named as in `dimension.model`."""


class _UsagePage(Page):
    data: list[UsageRecord]


class _CustomerPage(Page):
    data: list[Customer]


class _RefusalPage(Page):
    data: list[Refusal]


class _SummaryPage(Page):
    data: list[CustomerSummary]
    from_: datetime | None = field(name="from")
    to: datetime | None
    timezone: str


CUSTOMER = msgspec.json.Decoder(Customer)
_CUSTOMERS = msgspec.json.Decoder(_CustomerPage)
_REFUSALS = msgspec.json.Decoder(_RefusalPage)
_COUNTS = msgspec.json.Decoder(RefusalCounts)
_RECORD = msgspec.json.Decoder(UsageRecord)
_RECORDS = msgspec.json.Decoder(_UsagePage)
_SUMMARY = msgspec.json.Decoder(Summary)
_SUMMARIES = msgspec.json.Decoder(_SummaryPage)


class LedgerReads(StatementCalls):
    """The reading methods of the client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get_usage(self, *, customer_id: str | None = None, request_id: str) -> UsageRecord:
        """Read one stored record.

        Args:
            customer_id: Whose usage it is. Without it the service looks at all customers, which takes longer the more
                there are, and needs an API key that is not bound to a customer.
            request_id: The request id of the record, 64 lower-case hex digits.

        Raises:
            UsageNotFoundError: The customer has no such record.
            CustomerNotFoundError: The service does not know the customer.
        """
        whose = "" if customer_id is None else f"/customers/{path_segment(customer_id)}"
        call = ApiCall("GET", f"{whose}/usage/{path_segment(request_id)}", request_id=request_id)
        record = decode_record(_RECORD, await self._transport.send(call), call)
        require_about(record, call, customer_id=customer_id)
        return record

    async def usage(
        self,
        *,
        customer_id: str,
        service: str | None = None,
        event_id: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[UsageRecord, None]:
        """List a customer's records, by the time they occurred. Pages are read as needed.

        Args:
            customer_id: Whose usage.
            service: Only usage of this service. By default of all.
            event_id: Only the record with this event id.
            dimensions: Only usage with these values of these dimensions, such as `{"model": "large"}`.
            start: Only what occurred then or later; with a time zone.
            end: Only what occurred before; with a time zone.
            page_size: How many records one request asks for, 1 to 1,000.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            ValidationError: An argument is not valid.
        """
        query = _span_query(service, start, end) | _filter_query(dimensions) | {"limit": str(page_size)}
        query |= {} if event_id is None else {"eventId": query_text("eventId", event_id)}
        wanted = _Wanted.by(customer_id, query, dimensions)
        async for page, call in self._pages(f"/customers/{path_segment(customer_id)}/usage", _RECORDS, query):
            for record in page.data:
                wanted.require(record, call)
                yield record

    async def summary(
        self,
        *,
        customer_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[GroupBy] = (),
        dimensions: Mapping[str, str] | None = None,
        timezone: str = "UTC",
    ) -> Summary:
        """Sum a customer's usage, without what was voided. All pages of groups are read and put together.

        Args:
            customer_id: Whose usage.
            start: Only what occurred then or later; with a time zone.
            end: Only what occurred before; with a time zone.
            group_by: Any of "service", "hour", "day" and "month", and up to two dimensions such as "dimension.model".
                By default there are no groups, only the total.
            dimensions: Only usage with these values of these dimensions.
            timezone: The IANA time zone of hours, days and months.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            ValidationError: An argument is not valid, or too many records would have to be added up for it.
        """
        query = _summary_query(start, end, group_by, timezone) | _filter_query(dimensions)
        path = f"/customers/{path_segment(customer_id)}/summary"
        pages: list[Summary] = []
        async for page, call in self._pages(path, _SUMMARY, query):
            require_about(page, call, from_=_time(query, "from"), to=_time(query, "to"), timezone=timezone)
            pages.append(page)
        return msgspec.structs.replace(pages[-1], groups=[group for page in pages for group in page.groups])

    async def summaries(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[GroupBy] = (),
        dimensions: Mapping[str, str] | None = None,
        timezone: str = "UTC",
        page_size: int = 100,
    ) -> AsyncGenerator[CustomerSummary, None]:
        """Sum the usage of every customer, by customer id. Pages are read as needed.

        Args:
            start: Only what occurred then or later; with a time zone.
            end: Only what occurred before; with a time zone.
            group_by: See `summary`. By default there are no groups, only totals.
            dimensions: Only usage with these values of these dimensions.
            timezone: The IANA time zone of hours, days and months.
            page_size: How many customers one request asks for, 1 to 1,000.

        Raises:
            ValidationError: An argument is not valid, or too many records would have to be added up for it.
        """
        query = _summary_query(start, end, group_by, timezone) | _filter_query(dimensions) | {"limit": str(page_size)}
        last: CustomerSummary | None = None
        async for page, call in self._pages("/summary", _SUMMARIES, query):
            require_about(page, call, from_=_time(query, "from"), to=_time(query, "to"), timezone=timezone)
            for customer in page.data:
                if last is not None and last.customer_id == customer.customer_id:  # its groups did not fit on a page
                    last = msgspec.structs.replace(customer, groups=last.groups + customer.groups)
                    continue
                if last is not None:
                    yield last
                last = customer
        if last is not None:
            yield last

    async def export_usage(
        self,
        *,
        customer_id: str | None = None,
        service: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> AsyncGenerator[UsageRecord, None]:
        """Read all records as one stream, in constant memory. If it ends without an error, it is complete.

        Args:
            customer_id: Only this customer's usage. By default everybody's.
            service: Only usage of this service. By default of all.
            dimensions: Only usage with these values of these dimensions.
            start: Only what occurred then or later; with a time zone.
            end: Only what occurred before; with a time zone.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            TransportError: The stream broke off.
        """
        call = _export_call(customer_id, _span_query(service, start, end) | _filter_query(dimensions), "ndjson")
        wanted = _Wanted.by(customer_id, call.query, dimensions)
        async with aclosing(self._transport.stream(call, EXPORT_TYPES["ndjson"])) as lines:
            async for line in lines:
                record = decode_line(_RECORD, line, call)
                wanted.require(record, call)
                yield record

    async def export_lines(
        self,
        *,
        format: Literal["ndjson", "csv"] = "ndjson",  # noqa: A002 - the name that the service has for it
        customer_id: str | None = None,
        service: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Read the lines of an export as the service sends them, line ends included.

        Args:
            format: "ndjson" or "csv". The first line of CSV is the heading.
            customer_id: See `export_usage`.
            service: See `export_usage`.
            dimensions: See `export_usage`.
            start: See `export_usage`.
            end: See `export_usage`.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            TransportError: The stream broke off.
        """
        call = _export_call(customer_id, _span_query(service, start, end) | _filter_query(dimensions), format)
        async with aclosing(self._transport.stream(call, EXPORT_TYPES[format])) as lines:
            async for line in lines:
                yield line

    async def refusals(
        self,
        *,
        customer_id: str | None = None,
        code: RefusalCode | None = None,
        key: str | None = None,
        request_id: str | None = None,
        event_id: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[Refusal, None]:
        """List usage that was refused, latest first. Pages are read as needed.

        The service keeps it for some time and up to some number. Duplicates are not kept.

        Args:
            customer_id: Only what was reported of this customer. By default of all that the API key may see.
            code: Only refusals with this problem code.
            key: Only what this API key submitted, as `bk_` and its id, without the secret.
            request_id: Only usage with this request id, 64 lower-case hex digits.
            event_id: Only usage with this event id.
            start: Only what was refused then or later; with a time zone.
            end: Only what was refused before; with a time zone.
            page_size: How many refusals one request asks for, 1 to 1,000.

        Raises:
            ValidationError: An argument is not valid.
        """
        given = {"customerId": customer_id, "code": code, "key": key, "requestId": request_id, "eventId": event_id}
        query = {name: query_text(name, text) for name, text in given.items() if text is not None}
        query |= _span_query(None, start, end) | {"limit": str(page_size)}
        asked = {"customer_id": customer_id, "code": code, "submitted_by": key}
        asked |= {"request_id": request_id, "event_id": event_id}
        async for page, call in self._pages("/refusals", _REFUSALS, query):
            for refusal in page.data:
                require_about(refusal, call, **asked)
                yield refusal

    async def refusal_counts(
        self, *, customer_id: str | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> list[RefusalCount]:
        """Count what `refusals` lists, by API key and code, the most first.

        Args:
            customer_id: Only what was reported of this customer. By default of all that the API key may see.
            start: Only what was refused then or later; with a time zone.
            end: Only what was refused before; with a time zone.

        Raises:
            ValidationError: An argument is not valid.
        """
        query = {"customerId": query_text("customerId", customer_id)} if customer_id is not None else {}
        return (await self._get("/refusals/counts", _COUNTS, query | _span_query(None, start, end))).data

    async def events(
        self, *, customer_id: str | None = None, last_event_id: str | None = None
    ) -> AsyncGenerator[ServiceEvent, None]:
        """Learn what changes, within 2 seconds, for as long as you iterate.

        An event says what to read again. Each comes at least once. When the connection breaks or the service is away,
        the iterator connects again and goes on where it was. A slow reader gets fewer events, each about more.

        Args:
            customer_id: Only what changes of this customer. By default of all that the API key may see.
            last_event_id: The `last_event_id` of the last event of an earlier call. By default the first event is a
                `reset`.

        Raises:
            AuthenticationError: The API key is not valid, or was revoked.
            PermissionDeniedError: The API key may not read usage, or not of this customer.
            ValidationError: An argument is not valid.
        """
        async with aclosing(watch(self._transport, customer_id, last_event_id)) as events:
            async for event in events:
                yield event

    async def get_customer(self, *, customer_id: str) -> Customer:
        """Read one customer. Raises CustomerNotFoundError."""
        return await self._get(f"/customers/{path_segment(customer_id)}", CUSTOMER, id=customer_id)

    async def customers(self, *, page_size: int = 100) -> AsyncGenerator[Customer, None]:
        """List all customers, by id. Pages are read as needed.

        Args:
            page_size: How many customers one request asks for, 1 to 1,000.
        """
        async for page, _ in self._pages("/customers", _CUSTOMERS, {"limit": str(page_size)}):
            for customer in page.data:
                yield customer

    async def _get(
        self, path: str, decoder: "msgspec.json.Decoder[T]", query: dict[str, str] | None = None, **asked: object
    ) -> T:
        return await self._send(ApiCall("GET", path, query=query or {}), decoder, **asked)

    async def _send(self, call: ApiCall, decoder: "msgspec.json.Decoder[T]", **asked: object) -> T:
        found = decode_response(decoder, await self._transport.send(call), call)
        require_about(found, call, **asked)
        return found


class _Wanted(NamedTuple):
    """Which records were asked for."""

    customer_id: str | None
    service: str | None
    event_id: str | None
    dimensions: Mapping[str, str]
    start: datetime | None
    end: datetime | None

    @classmethod
    def by(cls, customer_id: str | None, query: Mapping[str, str], dimensions: Mapping[str, str] | None) -> Self:
        """Those of a query."""
        service, event_id = query.get("service"), query.get("eventId")
        return cls(customer_id, service, event_id, dimensions or {}, _time(query, "from"), _time(query, "to"))

    def require(self, record: UsageRecord, call: ApiCall) -> None:
        """Raises UnexpectedResponseError if a record is none of them."""
        require_about(record, call, customer_id=self.customer_id, service=self.service, event_id=self.event_id)
        at = record.occurred_at
        is_in_span = (self.start is None or self.start <= at) and (self.end is None or at < self.end)
        if not is_in_span or not self.dimensions.items() <= record.dimensions.items():
            detail = f"the response has a record that was not asked for: {record.request_id}"
            raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))


def _time(query: Mapping[str, str], name: str) -> datetime | None:
    """A time of a query, as it is sent."""
    return datetime.fromisoformat(query[name]) if name in query else None


def _filter_query(dimensions: Mapping[str, str] | None) -> dict[str, str]:
    return {
        query_text("dimension", f"{DIMENSION}{name}"): query_text(name, value)
        for name, value in (dimensions or {}).items()
    }


def _span_query(service: str | None, start: datetime | None, end: datetime | None) -> dict[str, str]:
    query = {"service": query_text("service", service)} if service is not None else {}
    query |= {"from": instant(start)} if start is not None else {}
    return query | ({"to": instant(end)} if end is not None else {})


def _export_call(customer_id: str | None, filters: dict[str, str], format_: str) -> ApiCall:
    query = {"customerId": query_text("customerId", customer_id)} if customer_id is not None else {}
    return ApiCall("GET", "/usage/export", query=query | filters | {"format": format_})


def _summary_query(
    start: datetime | None, end: datetime | None, group_by: Sequence[GroupBy], timezone: str
) -> dict[str, str]:
    query = {"timezone": timezone} | ({"groupBy": ",".join(group_by)} if group_by else {})
    return query | _span_query(None, start, end)
