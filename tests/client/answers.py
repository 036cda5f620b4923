"""What the service answers, for scripts, and what the tests report."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from billing_client import BillingSystemClient, Usage, UsageRecord
from billing_client.contract.identity import event_request_id
from tests.client.misbehaving import Connection, MisbehavingServer, Request, Step, answer

USAGE: Mapping[str, Any] = {
    "customer_id": "acme",
    "service": "storage",
    "units_consumed": "1.5",
    "price_per_unit": "0.02",
    "event_id": "event-1",
}
STORED: dict[str, Any] = {
    "requestId": event_request_id("acme", "event-1"),
    "customerId": "acme",
    "service": "storage",
    "unitsConsumed": "1.5",
    "pricePerUnit": "0.02",
    "amount": "0.03",
    "eventId": "event-1",
    "occurredAt": "2026-01-01T00:00:00Z",
    "recordedAt": "2026-01-01T00:00:01Z",
    "voidedAt": None,
}
CUSTOMER: Mapping[str, Any] = {
    "id": "acme",
    "name": "Acme",
    "createdAt": "2026-01-01T00:00:00Z",
    "updatedAt": "2026-01-01T00:00:00Z",
}


def client_of(server: MisbehavingServer, **settings: Any) -> BillingSystemClient:
    """A client of a server that misbehaves."""
    return BillingSystemClient(**{"base_url": server.url, "timeout": 10.0, **settings})


def usage(number: int, **changes: Any) -> Usage:
    """The use of this number: each has an event id of its own."""
    return Usage(**{**USAGE, "event_id": f"event-{number}", **changes})


def as_read(record: UsageRecord) -> UsageRecord:
    """A record as a later call reads it: without what became of the call that recorded it."""
    return msgspec.structs.replace(record, outcome=None)


def stored(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is stored, from what was sent; it has an event id."""
    return {**STORED, **record, "requestId": event_request_id(record["customerId"], record["eventId"])}


def json_answer(status: int, body: object, **headers: str) -> Step:
    return answer(status, json.dumps(body).encode(), **headers)


def recorded(**headers: str) -> Step:
    """The answer to usage that is recorded."""
    return json_answer(201, STORED, **headers)


def problem_body(status: int, code: str, **members: Any) -> dict[str, Any]:
    problem = {"type": "about:blank", "title": "Title", "status": status, "detail": "What is wrong.", "code": code}
    return problem | members


def problem(status: int, code: str, *, retry_after: str | None = None, **members: Any) -> Step:
    """The answer of a service that refuses."""
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    return json_answer(
        status, problem_body(status, code, **members), Content_Type="application/problem+json", **headers
    )


async def record_all(connection: Connection, request: Request) -> None:
    """The answer to a batch whose records are all recorded."""
    results = [{"outcome": "recorded", "record": stored(record)} for record in json.loads(request.body)["records"]]
    await json_answer(200, {"results": results})(connection, request)
