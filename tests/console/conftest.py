"""A service that asks for keys, with some customers and their usage, for all tests of a module."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import aiohttp
import pytest

from billing_service.settings import Settings
from tests.calls import post
from tests.databases import Server, database, run
from tests.keys import bearer, given_key
from tests.services import Service, running_service

HOSTILE = "\"'><img src=x onerror=alert(1)>{{7*7}}"


class Stage(NamedTuple):
    """The service, and keys of it by what they may do."""

    service: Service
    admin: str
    reader: str
    of_acme: str

    def post(self, path: str, body: object) -> object:
        """Call the API as an admin."""
        return run(_post(self.service, self.admin, path, body))

    def record(self, event_id: str, units: str) -> None:
        """Record usage of acme."""
        body = {"customerId": "acme", "service": "compute", "unitsConsumed": units, "pricePerUnit": "1"}
        self.post("/usage", body | {"eventId": event_id})

    def refuse(self, event_id: str = "job/1") -> None:
        """Report usage of acme that is refused, since its event id is recorded with other data."""
        body = {"customerId": "acme", "service": "another", "unitsConsumed": "1", "pricePerUnit": "1"}
        self.post("/usage/batch", {"records": [body | {"eventId": event_id}]})


async def _post(service: Service, key: str, path: str, body: object) -> object:
    async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
        answer = await post(http, path, body)
        assert answer.status in (200, 201), answer.body
        return answer.body


@pytest.fixture(scope="module")
def stage(database_server: Server, template_database: str) -> Iterator[Stage]:
    """The service, with the customers acme, zenith and one with a hostile name."""
    with database(database_server, template_database) as name:
        url = database_server.url_of(name)
        with running_service(Settings(database_url=url, env="production", trusted_proxies="127.0.0.1")) as service:
            admin = run(given_key(url, "admin", name="Ada"))
            for id_, called in (("acme", "Acme Corporation"), ("zenith", "Zenith Ltd"), (HOSTILE, HOSTILE)):
                run(_post(service, admin, "/customers", {"id": id_, "name": called}))
            run(_post(service, admin, "/usage/batch", {"records": list(_usages())}))
            reader = run(given_key(url, "usage:read", "customers:read", name="Rita"))
            of_acme = run(given_key(url, "usage:read", "customers:read", name="Acme", customer_id="acme"))
            yield Stage(service, admin, reader, of_acme)


def _usages() -> Iterator[dict[str, str]]:
    now = datetime.now(UTC)
    for n in range(60):
        at = now - timedelta(hours=18 * n, minutes=n)
        yield {
            "customerId": "acme" if n % 3 else "zenith",
            "service": ("compute", "storage", "requests", HOSTILE)[n % 4],
            "unitsConsumed": f"{n}.{n:03}",
            "pricePerUnit": "0.0125",
            "eventId": f"job/{n}",
            "occurredAt": at.isoformat(),
        }
    yield {"customerId": HOSTILE, "service": HOSTILE, "unitsConsumed": "1", "pricePerUnit": "1", "eventId": HOSTILE}
