"""Each test runs twice, on the service and on the fake one, unless it looks into what only the service has."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from billing_client.testing import FakeBillingServer
from billing_service.settings import Settings
from tests.services import Service, running_service

SERVICE, FAKE = "service", "fake"
OF_THE_SERVICE = {"connection", "database_server", "database_url", "settings"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "side" in metafunc.fixturenames:
        looks_inside = OF_THE_SERVICE & inspect.signature(metafunc.function).parameters.keys()
        is_alone = looks_inside or metafunc.definition.get_closest_marker("service_alone")
        metafunc.parametrize("side", [SERVICE] if is_alone else [SERVICE, FAKE], indirect=True, scope="session")


@contextmanager
def fake_service() -> Iterator[Service]:
    """The fake service, with an address as the service has one."""
    with FakeBillingServer() as fake:
        yield Service(fake.url, "127.0.0.1", int(fake.url.rpartition(":")[2]), Settings())


@pytest.fixture(scope="session")
def side(request: pytest.FixtureRequest) -> str:
    """Which of the two a test runs on."""
    return str(request.param)


@pytest.fixture
def service(side: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of this test's own."""
    if side == FAKE:
        with fake_service() as service:
            yield service
    else:
        with running_service(request.getfixturevalue("settings")) as service:
            yield service


@pytest.fixture(scope="session")
def shared_service(side: str, shared_service: Service) -> Iterator[Service]:
    """One service for all the tests that look only at what is theirs."""
    if side == FAKE:
        with fake_service() as service:
            yield service
    else:
        yield shared_service
