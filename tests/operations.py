"""A request of every operation, made from its description, so that a new operation is tested without being named."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_origin
from urllib.parse import quote, urlencode

import msgspec

from billing_client.contract.query_parameters import EventsQuery, NoQuery, ProofQuery, StatementQuery, StatementsQuery
from billing_client.contract.statements.structs import NewStatement, NewStatements
from billing_client.contract.wire import Batch, CustomerChange, NewCustomer, NewUsage, NewVoid
from billing_service.http.operations import Operation
from billing_service.ledger.api_keys import NewKey
from tests.calls import Answer, exchange, json_request, request_head, usage
from tests.services import ServeProcess, Service

FORM_TYPE = "Content-Type: application/x-www-form-urlencoded"
_ID = re.compile(r"\{\w+\}")


class Example(NamedTuple):
    """A request as the operation takes it."""

    method: str
    path: str
    body: bytes | None


def send_example(service: Service | ServeProcess, request: Example, *headers: str) -> Answer:
    """Send it over a socket of its own."""
    if request.body is None:
        return exchange(service, request_head(request.method, request.path, *headers))
    if request.path.startswith("/console"):
        length = f"Content-Length: {len(request.body)}"
        return exchange(service, request_head("POST", request.path, FORM_TYPE, length, *headers) + request.body)
    return exchange(service, json_request(request.path, request.body, *headers, method=request.method))


class Target(NamedTuple):
    """What a request is about."""

    customer_id: str
    request_id: str = "0" * 64
    digest: str = "0" * 64


def name_of(operation: Operation) -> str:
    """The name of an operation, for a test's."""
    return f"{operation.method} {operation.path}"


def example(operation: Operation, target: Target) -> Example:
    """A request of the operation about a customer, wherever it can name one."""
    return next(_examples(operation, target))


def examples(operation: Operation, target: Target) -> list[Example]:
    """Every request of the operation about a customer: also those that name no customer where none need be named."""
    return list(_examples(operation, target))


def path_of(operation: Operation, target: Target) -> str:
    """The address of an operation, whatever the service calls the ids in it.

    So a test of who may reach what does not share the names that the service decides by. The first id is taken for a
    customer, the second for a record, or for a statement behind `statements`; the one behind `/usage` for a record.
    """
    second = target.digest if "/statements/" in operation.path else target.request_id
    first = target.request_id if operation.path.startswith("/usage/") else quote(target.customer_id, safe="")
    ids = iter((first, second))
    return _ID.sub(lambda _: next(ids), operation.path)


def _examples(operation: Operation, target: Target) -> Iterator[Example]:
    path = path_of(operation, target)
    month = ["month=2026-01"]
    queries: dict[Any, list[str]] = {StatementQuery: month, StatementsQuery: month, EventsQuery: ["seconds=1"]}
    queries[ProofQuery] = [f"digest={target.digest}"]
    query = queries.get(operation.query, [])
    if operation.path == "/console/find":
        query = [f"q={target.request_id}"]
    body = _body(operation.body, target) if operation.tag != "console" else _form(operation, target)
    if "customerId" in {field.encode_name for field in msgspec.structs.fields(operation.query or NoQuery)}:
        named = [*query, f"customerId={quote(target.customer_id, safe='')}"]
        yield Example(operation.method, f"{path}?{'&'.join(named)}", body)
    yield Example(operation.method, f"{path}?{'&'.join(query)}" if query else path, body)
    if operation.body is NewCustomer:
        yield Example(operation.method, path, b'{"name": "Somebody"}')


def _form(operation: Operation, target: Target) -> bytes | None:
    """The form of a page that writes."""
    if operation.method == "GET":
        return None
    fields = {"name": "an example", "scope usage:read": "on", "customer": target.customer_id}
    fields |= {"reason": "an example", "month": "2026-01", "timezone": "UTC"}
    return urlencode(fields).encode()


def _body(struct: Any, target: Target) -> bytes | None:
    record = usage(customerId=target.customer_id, eventId="an example")
    bodies: dict[Any, Any] = {
        None: None,
        NewCustomer: {"id": target.customer_id, "name": "Somebody"},
        CustomerChange: {"name": "Somebody"},
        NewUsage: record,
        Batch: {"records": [record]},
        NewVoid: {"reason": "an example"},
        NewStatement: {"month": "2026-01"},
        NewStatements: {"month": "2026-01"},
        NewKey: {"name": "an example", "scopes": ["usage:read"], "customerId": target.customer_id},
    }
    body = bodies[get_origin(struct) or struct]
    return None if body is None else json.dumps(body).encode()
