"""The customer endpoints."""

from functools import lru_cache
from urllib.parse import quote

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.decoding import decode_customer_change, decode_new_customer
from billing_client.contract.identity import new_customer_id
from billing_client.contract.query_parameters import CustomersQuery, NoQuery
from billing_client.contract.wire import Customer, CustomerChange, CustomerPage, Id, NewCustomer
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.operations import Operation
from billing_service.http.requests import ApiRequest
from billing_service.http.responses import JsonResponse
from billing_service.ledger import customers

_LIST = "customers"


class _Position(Struct, array_like=True, frozen=True):
    id: Id


async def create_customer(request: ApiRequest, _: NoQuery) -> Response:
    """Create a customer. Without an `id` it gets a new one."""
    key = request.idempotency_key()
    new = decode_new_customer(await request.read_json())
    request.caller.require_reach(new.id)
    customer_id = new.id or new_customer_id()
    async with request.services.database.write_connection() as connection:
        created = await customers.create_customer(
            connection, customer_id, new, key, request.caller.key_name, request.services.clock.now()
        )
    headers = {"Location": path_of(customer_id)}
    if created.is_replay:
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(created.customer, 201, headers)


@lru_cache(10_000)
def path_of(customer_id: str) -> str:
    """The path of a customer's resource."""
    return f"/customers/{quote(customer_id, safe='')}"


async def list_customers(request: ApiRequest, query: CustomersQuery) -> Response:
    """List customers by id."""
    after = read_cursor(_LIST, query.cursor, _Position).id if query.cursor else ""
    async with request.services.database.read_connection() as connection:
        found = await customers.list_customers(connection, after, query.limit + 1, request.caller.customer_id)
    page = found[: query.limit]
    cursor = write_cursor(_LIST, _Position(page[-1].id)) if len(found) > query.limit else None
    return JsonResponse(CustomerPage(data=page, next_cursor=cursor))


async def get_customer(request: ApiRequest, _: NoQuery) -> Response:
    """Read one customer."""
    async with request.services.database.read_connection() as connection:
        customer = await customers.require_customer(connection, request.customer_id)
    return JsonResponse(customer)


async def update_customer(request: ApiRequest, _: NoQuery) -> Response:
    """Rename a customer."""
    change = decode_customer_change(await request.read_json())
    async with request.services.database.write_connection() as connection:
        customer = await customers.rename_customer(
            connection, request.customer_id, change.name, request.services.clock.now()
        )
    return JsonResponse(customer)


OPERATIONS = [
    Operation(
        method="POST",
        path="/customers",
        handler=create_customer,
        tag="customers",
        scope="customers:write",
        reach="handler",
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
        reach="handler",
        query=CustomersQuery,
        answer=CustomerPage,
    ),
    Operation(
        method="GET",
        path="/customers/{customer_id}",
        handler=get_customer,
        tag="customers",
        scope="customers:read",
        reach="customer",
        answer=Customer,
        problems=("customer_not_found",),
    ),
    Operation(
        method="PATCH",
        path="/customers/{customer_id}",
        handler=update_customer,
        tag="customers",
        scope="customers:write",
        reach="customer",
        body=CustomerChange,
        answer=Customer,
        problems=("customer_not_found",),
    ),
]
