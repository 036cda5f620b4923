"""A service that asks for keys, and two customers on it: the attacker is one of them, or nobody.

The tests of a module share them: an attack that leaves a trace is seen by the test that makes it.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from billing_service.settings import Settings
from tests.calls import exchange, json_request, usage
from tests.databases import Server, database, execute, run
from tests.keys import given_key
from tests.services import Service, running_service

SECRETS = ("Theirs Ltd", "their service", "their event", "their reason", "41.4142")
MONTH = "2026-01"


class Victim(NamedTuple):
    """A customer with one of everything."""

    customer_id: str
    request_id: str
    voided_id: str
    digest: str


@pytest.fixture(scope="module")
def database_url(database_server: Server, template_database: str) -> Iterator[str]:
    """The URL of this module's own database, migrated."""
    with database(database_server, template_database) as name:
        yield database_server.url_of(name)


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    """The settings of a service that asks for keys."""
    return Settings(database_url=database_url, env="production")


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Service]:
    """The service."""
    with running_service(settings) as service:
        yield service


@pytest.fixture(scope="module")
def key_of(service: Service) -> Callable[..., str]:
    """Makes keys of the service."""
    return lambda *scopes, **bound: run(given_key(service.settings.database_url, *scopes, **bound))


@pytest.fixture(scope="module")
def admin(key_of: Callable[..., str]) -> str:
    """The header of a key that may do everything."""
    return f"Authorization: Bearer {key_of('admin')}"


@pytest.fixture(scope="module")
def mine(service: Service, key_of: Callable[..., str], admin: str) -> str:
    """The header of a key that may do everything for the customer `mine`, beside the victim."""
    exchange(service, json_request("/customers", b'{"id": "mine", "name": "Mine"}', admin)).require(201)
    return f"Authorization: Bearer {key_of('admin', customer_id='mine')}"


@pytest.fixture(scope="module")
def victim(service: Service, admin: str) -> Victim:
    """A customer whose data holds the SECRETS."""

    def post_json(path: str, body: Any) -> Any:
        return exchange(service, json_request(path, json.dumps(body).encode(), admin))

    post_json("/customers", {"id": "theirs", "name": SECRETS[0]}).require(201)
    at = datetime(2026, 1, 5, tzinfo=UTC).isoformat()
    records = [
        post_json(
            "/usage",
            usage(customerId="theirs", service=SECRETS[1], eventId=f"{SECRETS[2]} {n}", unitsConsumed=SECRETS[4])
            | {"pricePerUnit": "1", "occurredAt": at},
        ).require(201)
        for n in range(2)
    ]
    path = f"/customers/theirs/usage/{records[1]['requestId']}/void"
    post_json(path, {"reason": SECRETS[3]}).require(200)
    issued = post_json("/customers/theirs/statements", {"month": MONTH}).require(201)
    return Victim("theirs", records[0]["requestId"], records[1]["requestId"], issued["digest"])


TABLES = """SELECT array_agg(table_name::text) FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'customer_id'"""
ROWS = "SELECT string_agg(row::text, E'\\n' ORDER BY row::text) FROM {table} AS row WHERE customer_id = 'theirs'"


def everything_of_theirs(database_url: str | None) -> dict[str, Any]:
    """All rows of the victim's, by table."""
    tables = run(execute(str(database_url), TABLES))
    keyed = (
        "SELECT count(*) FROM information_schema.columns WHERE table_name = '{table}' AND column_name = 'customer_id'"
    )
    found = {
        table: run(execute(str(database_url), ROWS.format(table=table)))
        for table in tables
        if run(execute(str(database_url), keyed.format(table=table)))
    }
    assert all(
        found[table]
        for table in ("customers", "usage_records", "usage_voids", "usage_rollups", "usage_pieces", "issued_statements")
    )
    return found
