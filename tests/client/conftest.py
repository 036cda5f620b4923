"""A client of the service that runs, and a customer to record usage for."""

from collections.abc import AsyncIterator

import pytest

from billing_client import BillingSystemClient
from tests.services import Service


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the client comes from the environment of whoever runs the tests."""
    for name in ("BILLING_BASE_URL", "BILLING_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[BillingSystemClient]:
    """A client of the service."""
    async with BillingSystemClient(base_url=service.url) as client:
        yield client


@pytest.fixture
async def customer_id(client: BillingSystemClient) -> str:
    """The id of a customer that the service knows."""
    return (await client.create_customer(name="Acme", customer_id="acme")).id
