"""A pytest plugin for programs that record usage: a fake billing service that fails on command.

Enable it in the topmost `conftest.py`, and let tests ask for `billing_server` or `billing_client`::

    pytest_plugins = ["billing_client.testing"]

It is not a pytest entry point: that would load an HTTP server in every pytest run wherever the client is installed.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from billing_client import BillingSystemClient
from billing_client.testing._faults import Fault
from billing_client.testing._server import Call, FakeBillingServer

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # other plugins, such as anyio's, run async fixtures declared with pytest.fixture
    _async_fixture = pytest.fixture  # type: ignore[assignment]  # other overloads, the same use

__all__ = ["Call", "FakeBillingServer", "Fault", "billing_client", "billing_server"]


@pytest.fixture
def billing_server() -> Iterator[FakeBillingServer]:
    """A FakeBillingServer of this test's own, without customers. It serves at `billing_server.url`."""
    with FakeBillingServer() as server:
        yield server


@_async_fixture
async def billing_client(billing_server: FakeBillingServer) -> AsyncIterator[BillingSystemClient]:
    """A BillingSystemClient of this test's `billing_server`."""
    async with billing_server.client() as client:
        yield client
