"""The endpoints of customers."""

from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

import asyncpg
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from billing_client.contract.decoding import decode_customer_change, decode_new_customer
from billing_client.contract.identity import new_customer_id
from billing_client.contract.problems import customer_exists, customer_not_found
from billing_client.contract.query_parameters import CustomersQuery, NoQuery
from billing_client.contract.wire import Customer, CustomerChange, CustomerPage, Id, NewCustomer
from billing_service.database.pool import Connection, Database
from billing_service.database.queries import load_queries
from billing_service.http.auth import Caller, caller_of
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import ProblemError
from billing_service.http.operations import Operation
from billing_service.http.requests import idempotency_key, read_json
from billing_service.http.responses import JsonResponse

_QUERIES = load_queries("customers")
_SCOPE = "customers"


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def create_customer(request: Request, _: NoQuery) -> Response:
    """Add a customer, under a new id where none is given."""
    key = idempotency_key(request)
    new = decode_new_customer(await read_json(request))
    caller_of(request).require_reach(new.id)
    customer_id = new.id or new_customer_id()
    database: Database = request.app.state.database
    async with database.connection() as connection:
        row = await connection.fetchrow(_QUERIES["insert_customer"], customer_id, new.name, datetime.now(UTC), key)
        replayed = row is None
        row = row or await connection.fetchrow(_QUERIES["get_customer"], customer_id)
    if row is None or (replayed and not _is_retry(row, new, key)):
        raise ProblemError(customer_exists(customer_id))
    headers = {"Location": path_of(customer_id)}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(_customer(row), 201, headers)


@lru_cache(10_000)
def path_of(customer_id: str) -> str:
    """Where a customer is found."""
    return f"/customers/{quote(customer_id, safe='')}"


def _is_retry(row: asyncpg.Record, new: NewCustomer, key: str | None) -> bool:
    """Whether this call is the one that made the customer, whose name may have changed since."""
    renamed = row["updated_at"] > row["created_at"]
    return key is not None and row["idempotency_key"] == key and (renamed or row["name"] == new.name)


async def list_customers(request: Request, query: CustomersQuery) -> Response:
    """List the customers by id."""
    after = read_cursor(_SCOPE, query.cursor, _Position).id if query.cursor else ""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        rows = await list_customer_rows(connection, caller_of(request), after, query.limit + 1)
    customers = [_customer(row) for row in rows[: query.limit]]
    cursor = write_cursor(_SCOPE, _Position(customers[-1].id)) if len(rows) > query.limit else None
    return JsonResponse(CustomerPage(data=customers, next_cursor=cursor))


async def get_customer(request: Request, _: NoQuery) -> Response:
    """Read one customer."""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        customer = await require_customer(connection, request.path_params["customer_id"])
    return JsonResponse(customer)


async def update_customer(request: Request, _: NoQuery) -> Response:
    """Rename a customer."""
    customer_id: str = request.path_params["customer_id"]
    change = decode_customer_change(await read_json(request))
    database: Database = request.app.state.database
    async with database.connection() as connection:
        row = await connection.fetchrow(_QUERIES["rename_customer"], customer_id, change.name, datetime.now(UTC))
    if row is None:
        raise ProblemError(customer_not_found(customer_id))
    return JsonResponse(_customer(row))


async def list_customer_rows(connection: Connection, caller: Caller, after: str, limit: int) -> list[asyncpg.Record]:
    """At most `limit` of the customers that the caller reaches, after an id, by id."""
    if caller.customer_id is not None:
        return (
            await connection.fetch(_QUERIES["get_customer"], caller.customer_id) if after < caller.customer_id else []
        )
    return await connection.fetch(_QUERIES["list_customers"], after, limit)


async def require_customer(connection: Connection, customer_id: str) -> Customer:
    """The customer. Raises ProblemError (404) where there is none."""
    row = await connection.fetchrow(_QUERIES["get_customer"], customer_id)
    if row is None:
        raise ProblemError(customer_not_found(customer_id))
    return _customer(row)


def _customer(row: asyncpg.Record) -> Customer:
    return Customer(id=row["customer_id"], name=row["name"], created_at=row["created_at"], updated_at=row["updated_at"])


OPERATIONS = [
    Operation(
        method="POST",
        path="/customers",
        handler=create_customer,
        tag="customers",
        scope="customers:write",
        idempotency_key=True,
        body=NewCustomer,
        status=201,
        headers=("Location", "Idempotent-Replayed"),
        answer=Customer,
        problems=("customer_exists",),
    ),
    Operation(
        method="GET",
        path="/customers",
        handler=list_customers,
        tag="customers",
        scope="customers:read",
        query=CustomersQuery,
        answer=CustomerPage,
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id:id}",
        handler=get_customer,
        tag="customers",
        scope="customers:read",
        answer=Customer,
        problems=("customer_not_found",),
    ),
    Operation(
        method="PATCH",
        path="/customers/{customer_id:id}",
        handler=update_customer,
        tag="customers",
        scope="customers:write",
        body=CustomerChange,
        answer=Customer,
        problems=("customer_not_found",),
    ),
]
