"""The repository of customers."""

from datetime import datetime
from typing import NamedTuple

import asyncpg

from billing_client.contract.problems import ProblemError, customer_exists, customer_not_found
from billing_client.contract.wire import Customer, NewCustomer
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.database.replication import wait_for_standbys
from billing_service.ledger.api_keys import key_id_bytes

_QUERIES = load_queries("customers")


class CreatedCustomer(NamedTuple):
    """A customer, and whether an earlier attempt of the same call created it."""

    customer: Customer
    is_replay: bool


async def create_customer(
    connection: Connection,
    customer_id: str,
    new: NewCustomer,
    idempotency_key: str | None,
    created_by: str | None,
    now: datetime,
) -> CreatedCustomer:
    """Add a customer.

    Args:
        connection: A connection to the database.
        customer_id: The id of the customer.
        new: The rest of what the caller sent.
        idempotency_key: The call's `Idempotency-Key`; None if it has none, and then it is never a retry.
        created_by: The name of the caller's API key (`bk_` and its id); None without a key.
        now: The time of creation.

    Raises:
        ProblemError: 409; the id is taken, and not by an earlier attempt of this call.
    """
    key_id = key_id_bytes(created_by)
    row = await connection.fetchrow(_QUERIES["insert_customer"], customer_id, new.name, now, idempotency_key, key_id)
    if row is not None:
        return CreatedCustomer(_customer(row), is_replay=False)
    await wait_for_standbys(connection)
    row = await connection.fetchrow(_QUERIES["get_customer"], customer_id)
    if row is None or row["created_by"] != key_id or not _is_retry(row, new, idempotency_key):
        raise ProblemError(customer_exists(customer_id))
    return CreatedCustomer(_customer(row), is_replay=True)


def _is_retry(row: asyncpg.Record, new: NewCustomer, idempotency_key: str | None) -> bool:
    """Whether this call created the customer. The name need not match if the customer was renamed since."""
    is_renamed = row["updated_at"] != row["created_at"]  # after a failover to a slower clock it may be less
    is_same_call = idempotency_key is not None and row["idempotency_key"] == idempotency_key
    return is_same_call and (is_renamed or row["name"] == new.name)


async def require_customer(connection: Connection, customer_id: str) -> Customer:
    """The customer. Raises ProblemError (404) if it does not exist."""
    row = await connection.fetchrow(_QUERIES["get_customer"], customer_id)
    if row is None:
        raise ProblemError(customer_not_found(customer_id))
    return _customer(row)


async def rename_customer(connection: Connection, customer_id: str, name: str, now: datetime) -> Customer:
    """Change a customer's name. Raises ProblemError (404) if it does not exist."""
    row = await connection.fetchrow(_QUERIES["rename_customer"], customer_id, name, now)
    if row is None:
        raise ProblemError(customer_not_found(customer_id))
    return _customer(row)


async def list_customers(connection: Connection, after: str, limit: int, only: str | None = None) -> list[Customer]:
    """List customers by id.

    Args:
        connection: A connection to the database.
        after: List only ids after this one; empty for all.
        limit: The most customers to return.
        only: The only customer that the caller may see; None for all customers.
    """
    if only is None:
        rows = await connection.fetch(_QUERIES["list_customers"], after, limit)
    else:
        rows = await connection.fetch(_QUERIES["get_customer"], only) if after < only else []
    return [_customer(row) for row in rows]


def _customer(row: asyncpg.Record) -> Customer:
    return Customer(id=row["customer_id"], name=row["name"], created_at=row["created_at"], updated_at=row["updated_at"])
