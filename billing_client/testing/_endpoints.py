"""The endpoints of the fake service: from a request to its response, as the contract says."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Raw
from multidict import CIMultiDictProxy

from billing_client.contract.decoding import (
    RecordDecoder,
    decode_batch,
    decode_customer_change,
    decode_new_customer,
    decode_new_void,
    decode_usage,
)
from billing_client.contract.periods import SummaryRequest, read_summary_query
from billing_client.contract.problems import ProblemError, invalid_input, problem
from billing_client.contract.query_parameters import (
    BatchQuery,
    CustomersQuery,
    ExportQuery,
    NoQuery,
    SummariesQuery,
    SummaryQuery,
    UsageQuery,
)
from billing_client.contract.request_parsing import (
    check_body_type,
    read_id,
    read_key,
    read_query,
    read_span,
)
from billing_client.contract.wire import (
    BatchResult,
    BatchResults,
    Customer,
    CustomerPage,
    CustomerSummary,
    Message,
    ProblemDetails,
    Summary,
    SummaryPage,
    UsagePage,
    UsageRecord,
)
from billing_client.testing._ledger import FakeLedger
from billing_client.testing._summaries import summary_groups, summary_total

MAX_BODY_BYTES = 8 * 1024 * 1024
_CHALLENGE = 'Bearer realm="billing-service"'
_encoder = msgspec.json.Encoder()
T = TypeVar("T")


class Request(NamedTuple):
    """A request as received. `body` is None if it is larger than MAX_BODY_BYTES."""

    method: str
    path: str
    query: bytes
    headers: CIMultiDictProxy[str]
    body: bytes | None


class Response(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


def json_response(body: Message, status: int = 200, **headers: str) -> Response:
    return Response(status, _encoder.encode(body), {"Content-Type": "application/json"} | headers)


def problem_response(details: ProblemDetails[str], headers: Mapping[str, str] | None = None) -> Response:
    content_type = {"Content-Type": "application/problem+json"}
    return Response(details.status, _encoder.encode(details), content_type | dict(headers or {}))


class Endpoints:
    """Responses requests from a ledger; calls without one of these API keys are refused, where there are any."""

    def __init__(self, ledger: FakeLedger, currency: str, api_keys: Sequence[str]) -> None:
        self._ledger = ledger
        self._currency = currency
        self._credentials = {f"Bearer {key}" for key in api_keys}

    def respond(self, request: Request) -> Response:
        """The response to any request."""
        try:
            endpoint, ids = self._route(request)
            self._check_credentials(request.headers.getall("Authorization", []))
            return endpoint(self, request, *ids)
        except ProblemError as error:
            return problem_response(error.details, error.headers)

    def _check_credentials(self, values: Sequence[str]) -> None:
        if self._credentials and not values:
            refusal = problem("unauthenticated", "Send an API key: Authorization: Bearer bk_….")
            raise ProblemError(refusal, {"WWW-Authenticate": _CHALLENGE})
        if self._credentials and ", ".join(values) not in self._credentials:
            refusal = problem("unauthenticated", "The API key is not valid: it is unknown, expired or revoked.")
            raise ProblemError(refusal, {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'})

    def _route(self, request: Request) -> tuple[Callable[..., Response], list[str]]:
        matches = [
            (method, endpoint, match)
            for method, pattern, endpoint in _ROUTES
            if (match := pattern.fullmatch(request.path))
        ]
        if not matches:
            raise ProblemError(problem("not_found", f"{HTTPStatus.NOT_FOUND.phrase}."))
        ids = [read_id(segment) for segment in matches[0][2].groups()]
        for method, endpoint, _ in matches:
            if method == ("GET" if request.method == "HEAD" else request.method):
                return endpoint, ids
        allowed = {method for method, _, _ in matches}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        refusal = problem("method_not_allowed", f"{HTTPStatus.METHOD_NOT_ALLOWED.phrase}.")
        raise ProblemError(refusal, {"Allow": ", ".join(sorted(allowed))})

    def health(self, _: Request) -> Response:
        return Response(200, b'{"status":"ok"}', {"Content-Type": "application/json"})

    def create_customer(self, request: Request) -> Response:
        read_query(request.query, NoQuery)
        key = _key(request)
        customer, replayed = self._ledger.add_customer(decode_new_customer(_body(request)), key)
        return _created(customer, f"/customers/{quote(customer.id, safe='')}", replayed)

    def list_customers(self, request: Request) -> Response:
        query = read_query(request.query, CustomersQuery)
        after = self._ledger.read_cursor("customers", query.cursor)
        page, cursor = self._page(self._ledger.customers(), "customers", query.limit, after, _customer_id)
        return json_response(CustomerPage(data=page, next_cursor=cursor))

    def get_customer(self, request: Request, customer_id: str) -> Response:
        read_query(request.query, NoQuery)
        return json_response(self._ledger.customer(customer_id))

    def update_customer(self, request: Request, customer_id: str) -> Response:
        read_query(request.query, NoQuery)
        change = decode_customer_change(_body(request))
        return json_response(self._ledger.rename_customer(customer_id, change.name))

    def record_usage(self, request: Request) -> Response:
        read_query(request.query, NoQuery)
        key = _key(request)
        record = decode_usage(_body(request), datetime.now(UTC))
        (result,) = self._ledger.record([record], key)
        if result.record is None:
            raise ProblemError(result.problem or problem("internal_error", "There is no outcome."))
        path = f"/customers/{quote(record.customer_id, safe='')}/usage/{record.request_id}"
        return _created(result.record, path, result.outcome == "replayed")

    def record_batch(self, request: Request) -> Response:
        query = read_query(request.query, BatchQuery)
        key = _key(request)
        batch = decode_batch(_body(request))
        decode = RecordDecoder(datetime.now(UTC))
        decoded = [_decode_record(raw, decode) for raw in batch.records]
        results = self._ledger.record([read for read in decoded if isinstance(read, UsageRecord)], key, query.dry_run)
        each = [next(results) if isinstance(read, UsageRecord) else read for read in decoded]
        return json_response(BatchResults(results=each))

    def list_usage(self, request: Request, customer_id: str) -> Response:
        query = read_query(request.query, UsageQuery)
        start, end = read_span(query.from_, query.to)
        scope = ("usage", customer_id, query.service, query.dimensions, start, end)
        after = self._ledger.read_cursor(scope, query.cursor)
        self._ledger.customer(customer_id)
        records = self._ledger.records(customer_id, start, end, query.service, query.dimensions)
        if query.event_id is not None:
            records = [record for record in records if record.event_id == query.event_id]
        page, cursor = self._page(records, scope, query.limit, after, _time_and_id)
        return json_response(UsagePage(data=page, next_cursor=cursor))

    def find_usage(self, request: Request, request_id: str) -> Response:
        read_query(request.query, NoQuery)
        return json_response(self._ledger.find_anywhere(request_id))

    def get_usage(self, request: Request, customer_id: str, request_id: str) -> Response:
        read_query(request.query, NoQuery)
        return json_response(self._ledger.find(customer_id, request_id))

    def void_usage(self, request: Request, customer_id: str, request_id: str) -> Response:
        read_query(request.query, NoQuery)
        void = decode_new_void(_body(request))
        return json_response(self._ledger.void(customer_id, request_id, void))

    def export_usage(self, request: Request) -> Response:
        query = read_query(request.query, ExportQuery)
        _check_format(query.format, "ndjson", {"ndjson", "csv"})
        start, end = read_span(query.from_, query.to)
        if query.customer_id is not None:
            self._ledger.customer(query.customer_id)
        body = _encoder.encode_lines(
            self._ledger.records(query.customer_id, start, end, query.service, query.dimensions)
        )
        return Response(200, body, {"Content-Type": "application/x-ndjson"})

    def summarize_customer(self, request: Request, customer_id: str) -> Response:
        query = read_query(request.query, SummaryQuery)
        asked = read_summary_query(query)
        scope = ("summary", customer_id, asked)
        shown = self._ledger.read_cursor(scope, query.cursor) or 0
        self._ledger.customer(customer_id)
        summary, end = self._summary(customer_id, asked), shown + query.limit
        cursor = self._ledger.write_cursor(scope, end) if end < len(summary.groups) else None
        groups = summary.groups[shown:end]
        return json_response(Summary(**self._frame(asked), groups=groups, total=summary.total, next_cursor=cursor))

    def summarize_customers(self, request: Request) -> Response:
        query = read_query(request.query, SummariesQuery)
        asked = read_summary_query(query)
        scope = ("summary", asked)
        after = self._ledger.read_cursor(scope, query.cursor)
        page, cursor = self._page(self._ledger.customers(), scope, query.limit, after, _customer_id)
        data = [self._summary(customer.id, asked) for customer in page]
        return json_response(SummaryPage(**self._frame(asked), data=data, next_cursor=cursor))

    def _summary(self, customer_id: str, asked: SummaryRequest) -> CustomerSummary[str]:
        records = self._ledger.records(customer_id, asked.start, asked.end, dimensions=dict(asked.filters))
        shown = summary_groups(records, asked) if asked.members else []
        return CustomerSummary(customer_id=customer_id, groups=shown, total=summary_total(records))

    def _frame(self, asked: SummaryRequest) -> dict[str, Any]:
        zone = asked.grouping.timezone
        return {"from_": asked.from_, "to": asked.to, "timezone": zone, "currency": self._currency}

    def _page(
        self, items: list[T], scope: object, limit: int, after: Any, position_of: Callable[[T], Any]
    ) -> tuple[list[T], str | None]:
        """The page after a position, and the cursor of the next one."""
        if after is not None:
            items = [item for item in items if position_of(item) > after]
        more = len(items) > limit
        return items[:limit], self._ledger.write_cursor(scope, position_of(items[limit - 1])) if more else None


def _customer_id(customer: Customer) -> str:
    return customer.id


def _time_and_id(record: UsageRecord[str]) -> tuple[datetime, str]:
    return record.occurred_at, record.request_id


def _created(body: Message, location: str, replayed: bool) -> Response:
    headers = {"Location": location} | ({"Idempotent-Replayed": "true"} if replayed else {})
    return json_response(body, 201, **headers)


def _key(request: Request) -> str | None:
    return read_key(request.headers.getall("Idempotency-Key", []))


def _body(request: Request) -> bytes:
    check_body_type(request.headers.get("Content-Type"), request.headers.get("Content-Encoding"))
    if request.body is None:
        raise ProblemError(problem("payload_too_large", f"A body may have {MAX_BODY_BYTES} bytes at most."))
    if not request.body:
        raise invalid_input("", "is empty, but must be a JSON object")
    return request.body


def _decode_record(raw: Raw, decode: RecordDecoder) -> UsageRecord[str] | BatchResult[str]:
    try:
        return decode(raw)
    except ProblemError as error:
        return BatchResult(outcome="rejected", problem=error.details)


def _check_format(asked: str | None, only: str, known: set[str]) -> None:
    """Raise ProblemError for a form that is none, and for one that the fake does not have."""
    if asked is not None and asked not in known:
        raise invalid_input("query/format", f"must be one of {', '.join(sorted(known))}")
    if asked not in (None, only):
        raise ProblemError(problem("not_acceptable", f"The fake service answers in {only} alone."))


_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [
    (method, re.compile(path.replace("{}", "([^/]+)")), endpoint)
    for method, path, endpoint in (
        ("POST", "/customers", Endpoints.create_customer),
        ("GET", "/customers", Endpoints.list_customers),
        ("GET", "/customers/{}", Endpoints.get_customer),
        ("PATCH", "/customers/{}", Endpoints.update_customer),
        ("POST", "/usage", Endpoints.record_usage),
        ("POST", "/usage/batch", Endpoints.record_batch),
        ("GET", "/usage/export", Endpoints.export_usage),
        ("GET", "/usage/(?!(?:batch|export)$){}", Endpoints.find_usage),
        ("GET", "/customers/{}/usage", Endpoints.list_usage),
        ("GET", "/customers/{}/usage/{}", Endpoints.get_usage),
        ("POST", "/customers/{}/usage/{}/void", Endpoints.void_usage),
        ("GET", "/customers/{}/summary", Endpoints.summarize_customer),
        ("GET", "/summary", Endpoints.summarize_customers),
        ("GET", "/healthz", Endpoints.health),
        ("GET", "/readyz", Endpoints.health),
    )
]
