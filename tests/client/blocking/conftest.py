"""A blocking client of the service that the tests share."""

from collections.abc import Iterator

import pytest

from billing_client.blocking import BillingClient
from tests.services import Service


@pytest.fixture
def blocking_client(shared_service: Service) -> Iterator[BillingClient]:
    """A blocking client."""
    with BillingClient(base_url=shared_service.url) as client:
        yield client
