"""Calls of the service as the tests make them, and what every answer must look like."""

import io
import json
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tests.services import ServeProcess, Service

CODES = {
    "validation_error": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_acceptable": 406,
    "statement_not_found": 404,
    "usage_not_counted": 404,
    "month_not_over": 409,
    "billed_in_other_timezone": 409,
    "records_changed": 409,
    "customer_not_found": 404,
    "usage_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "duplicate_record": 409,
    "customer_exists": 409,
    "payload_too_large": 413,
    "misdirected_request": 421,
    "key_not_found": 404,
    "unsupported_media_type": 415,
    "event_id_conflict": 422,
    "summary_too_large": 422,
    "rate_limited": 429,
    "header_too_large": 431,
    "internal_error": 500,
    "unavailable": 503,
    "http_version_not_supported": 505,
}
JSON_TYPE = {"Content-Type": "application/json"}
# The service knows the database's time as exactly as a query is fast: on a busy machine, within a second.
CLOCKS_AGREE = timedelta(seconds=1)


def is_now(instant: str | datetime, since: datetime) -> bool:
    """Whether the service's `instant` lies between `since`, on this machine's clock, and now."""
    instant = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return since - CLOCKS_AGREE <= instant <= datetime.now(UTC) + CLOCKS_AGREE


class Answer(NamedTuple):
    """What a call got: `body` is the decoded JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def replayed(self) -> bool:
        return self.headers.get("Idempotent-Replayed") == "true"

    def require(self, status: int) -> Any:
        """The body, of an answer with this status."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["Content-Type"] == "application/json"
        return self.body

    def problem(self, code: str, *pointers: str) -> Any:
        """The body, of an answer that is the problem of this code in the one shape of all problems.

        `pointers` are those of its errors, in any order.
        """
        assert isinstance(self.body, dict), self.body
        assert (self.status, self.body["code"]) == (CODES[code], code), self.body
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.body["status"] == self.status
        assert all(self.body[member] for member in ("type", "title", "detail"))
        assert sorted(error["pointer"] for error in self.body.get("errors", [])) == sorted(pointers), self.body
        assert all(error["message"] for error in self.body.get("errors", []))
        return self.body


def key(name: str) -> dict[str, str]:
    """The header that names a call."""
    return {"Idempotency-Key": f'"{name}"'}


def usage(**changes: Any) -> dict[str, Any]:
    """A report of usage, with these members in the place of the usual ones; None leaves a member out."""
    report = {"customerId": "acme", "service": "storage", "unitsConsumed": "1.5", "pricePerUnit": "0.02"} | changes
    return {name: value for name, value in report.items() if value is not None}


async def send(
    http: aiohttp.ClientSession, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request with a JSON body (bytes go as they are); `path` goes as it is, percent-encoded by the caller."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = (JSON_TYPE if data is not None else {}) | dict(headers or {})
    stream = None if data is None else io.BytesIO(data)
    async with http.request(method, URL(path, encoded=True), data=stream, headers=sent) as response:
        return Answer(response.status, response.headers, json.loads(await response.read()))


async def get(http: aiohttp.ClientSession, path: str) -> Answer:
    return await send(http, "GET", path)


async def post(http: aiohttp.ClientSession, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return await send(http, "POST", path, body, headers)


async def given_customer(http: aiohttp.ClientSession, customer_id: str = "acme") -> Any:
    """Create a customer, and return it."""
    return (await post(http, "/customers", {"id": customer_id, "name": "Acme"})).require(201)


async def stored(http: aiohttp.ClientSession, customer: str) -> Any:
    """All the records of a customer."""
    path = f"/customers/{customer}/usage?limit=1000"
    page = (await get(http, path)).require(200)
    records = page["data"]
    while page["nextCursor"] is not None:
        page = (await get(http, f"{path}&cursor={quote(page['nextCursor'], safe='')}")).require(200)
        records += page["data"]
    return records


def request_head(method: str, path: str, *headers: str) -> bytes:
    """The head of an HTTP/1.1 request, for requests that no client library would send."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode("latin-1")


def json_request(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    head = request_head(method, path, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return head + body


def exchange(service: Service | ServeProcess, *parts: bytes | Iterable[bytes]) -> Answer:
    """Send bytes over a socket of their own, and read the one answer."""
    with socket.create_connection((service.host, service.port), timeout=30) as connection:
        for part in parts:
            for chunk in [part] if isinstance(part, bytes) else part:
                connection.sendall(chunk)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer off a socket; a body that is no JSON comes as bytes."""
    response = HTTPResponse(connection)
    response.begin()
    body = response.read()
    is_json = response.headers.get("Content-Type", "") in ("application/json", "application/problem+json")
    return Answer(response.status, CIMultiDict(response.headers.items()), json.loads(body) if is_json else body)
