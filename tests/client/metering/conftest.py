"""A client of the service that the tests share."""

from collections.abc import AsyncIterator

import pytest

from billing_client import BillingSystemClient
from tests.services import Service


@pytest.fixture
async def shared_client(shared_service: Service) -> AsyncIterator[BillingSystemClient]:
    """A client of the shared service."""
    async with BillingSystemClient(base_url=shared_service.url) as client:
        yield client
