"""A pytest plugin for whoever reports usage: a fake billing service that misbehaves on command.

Enable it in the topmost `conftest.py`, and ask for `billing_server` or `billing_client`::

    pytest_plugins = ["billing_client.testing"]

It is no entry point on purpose: then every run of pytest would load an HTTP server wherever the client is installed.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from billing_client import BillingSystemClient
from billing_client.testing._faults import Fault
from billing_client.testing._server import Call, FakeBillingServer

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # another plugin may run asynchronous fixtures as they are
    _async_fixture = pytest.fixture  # type: ignore[assignment]  # other overloads, the same use

__all__ = ["Call", "FakeBillingServer", "Fault", "billing_client", "billing_server"]


@pytest.fixture
def billing_server() -> Iterator[FakeBillingServer]:
    """A fake billing service of this test's own, without customers."""
    with FakeBillingServer() as server:
        yield server


@_async_fixture
async def billing_client(billing_server: FakeBillingServer) -> AsyncIterator[BillingSystemClient]:
    """A client of the fake billing service."""
    async with billing_server.client() as client:
        yield client
