"""What every test may ask for: a migrated database of its own, and the service on it."""

import importlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_client.contract.identity import new_customer_id
from billing_service.settings import Settings
from tests.calls import exchange, json_request
from tests.databases import Server, database, find_server, migrated_database, server_version
from tests.services import Service, running_service

pytest_plugins = ["billing_client.testing"]
MOST_WORKERS = 8  # more gain little, and each takes 300 MB
_STACK = pytest.StashKey[ExitStack]()
_PREPARED = pytest.StashKey[tuple[Server, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the server and make the template database; the workers of pytest-xdist share those of their controller."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell ignores it for what runs in the background, and every process that a test starts would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        os.environ.pop("PYTEST_ADDOPTS", None)  # it is for this run, not for one that a test starts
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a server would stay, and its data in memory
    if (given := getattr(config, "workerinput", None)) is not None:
        config.stash[_PREPARED] = Server(*given["database_server"]), given["template_database"]
        return
    config.stash[_STACK] = stack = ExitStack()
    _keep_bytecode(stack)
    server = stack.enter_context(find_server())
    config.stash[_PREPARED] = server, stack.enter_context(migrated_database(server))


def _keep_bytecode(stack: ExitStack) -> None:
    """Compile each module once for all processes of the run, even where they are told to leave no bytecode behind."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = stack.enter_context(TemporaryDirectory(prefix="billing-test-bytecode-"))
        os.environ["PYTHONPYCACHEPREFIX"] = folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Begin to import the test modules at another one in each worker: what one has compiled, the others load."""
    given = getattr(session.config, "workerinput", None)
    if given is None or session.config.args != session.config.getini("testpaths"):
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    start = len(files) * int(given["workerid"].removeprefix("gw")) // given["workercount"]
    for file in files[start:] + files[:start]:
        with suppress(Exception):  # collection tells it
            importlib.import_module(".".join(file.relative_to(session.config.rootpath).with_suffix("").parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Use two workers for each core, since tests wait half of the time; none for single files: those start faster."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    if all(".py" in argument for argument in config.args):
        return 0
    return min(2 * (os.cpu_count() or 1), MOST_WORKERS)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put slow tests first in the share that each worker gets, so that none of them is left alone with one."""
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = deque(item for item in items if not item.get_closest_marker("slow"))
    left = len(items)
    items.clear()
    for worker in range(workers):
        size = left // (workers - worker)  # as xdist's scheduler shares them out
        first = slow[worker::workers]
        items += [*first, *(others.popleft() for _ in range(min(len(others), size - len(first))))]
        left -= size
    items += others


def pytest_unconfigure(config: pytest.Config) -> None:
    if _STACK in config.stash:
        config.stash[_STACK].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what it shares."""
    server, template = node.config.stash[_PREPARED]
    node.workerinput.update(database_server=tuple(server), template_database=template)


def pytest_report_header(config: pytest.Config) -> str:
    server, _ = config.stash[_PREPARED]
    return f"database: {server.kind}, PostgreSQL {server_version(server)}"


@pytest.fixture(scope="session")
def database_server(pytestconfig: pytest.Config) -> Server:
    """The PostgreSQL server of this run."""
    return pytestconfig.stash[_PREPARED][0]


@pytest.fixture(scope="session")
def template_database(pytestconfig: pytest.Config) -> str:
    """The name of a migrated database from which each test's own is cloned."""
    return pytestconfig.stash[_PREPARED][1]


@pytest.fixture
def database_url(database_server: Server, template_database: str) -> Iterator[str]:
    """The URL of this test's own database, migrated."""
    with database(database_server, template_database) as name:
        yield database_server.url_of(name)


@pytest.fixture
def empty_database_url(database_server: Server) -> Iterator[str]:
    """The URL of a database of this test's own with nothing in it."""
    with database(database_server) as name:
        yield database_server.url_of(name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a service on this test's database."""
    return Settings(database_url=database_url)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """The service, on this test's database."""
    with running_service(settings) as service:
        yield service


@pytest.fixture(scope="session")
def shared_service(database_server: Server, template_database: str) -> Iterator[Service]:
    """One service for all the tests that may share a database, since they look only at what is theirs."""
    with (
        database(database_server, template_database) as name,
        running_service(Settings(database_url=database_server.url_of(name))) as service,
    ):
        yield service


@pytest.fixture
async def shared_http(shared_service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of the shared service."""
    async with aiohttp.ClientSession(shared_service.url) as session:
        yield session


@pytest.fixture
def customer(shared_service: Service) -> str:
    """The id of a new customer of the shared service."""
    id_ = new_customer_id()
    body = msgspec.json.encode({"id": id_, "name": "Acme"})
    exchange(shared_service, json_request("/customers", body)).require(201)
    return id_


@pytest.fixture
async def http(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of the service."""
    async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to this test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
