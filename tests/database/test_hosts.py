"""Several servers in DATABASE_URL: the newest primary is used, wherever it is listed, and never an older one again."""

import asyncio
import socket
import time
from collections.abc import Iterator

import aiohttp
import asyncpg
import pytest

from billing_service.__main__ import main
from billing_service.database.faults import NoPrimaryError
from billing_service.database.hosts import HOST_TIMEOUTS
from billing_service.database.migrations import migrate
from billing_service.database.pool import connected
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, given_customer, key, post, usage
from tests.databases import execute
from tests.programs import run_main
from tests.replication import PostgresServer, Replication, replicating_servers, url_of
from tests.services import free_port, running_service

COUNT = "SELECT count(*) FROM usage_records"


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[Replication]:
    """A primary and its standby for tests that leave them what they are."""
    with replicating_servers() as servers:
        yield servers


@pytest.fixture
def servers() -> Iterator[Replication]:
    """A primary and its standby of this test's own."""
    with replicating_servers() as servers:
        yield servers


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def count_on(server: PostgresServer, database: str) -> int:
    return int(server.execute_in(database, COUNT))


async def port_of(settings: Settings) -> int:
    """The port of the server that is connected to."""
    async with connected(settings) as connection:
        port: int = await connection.fetchval("SELECT current_setting('port')::integer")
        return port


async def test_the_primary_is_used_wherever_it_is_listed(shared_servers: Replication) -> None:
    primary, standby = shared_servers.primary, shared_servers.standby
    for addresses in ((primary.address, standby.address), (standby.address, primary.address)):
        assert await port_of(Settings(database_url=url_of(*addresses))) == primary.port
    gone = f"127.0.0.1:{free_port()}"
    assert await port_of(Settings(database_url=url_of(gone, standby.address, primary.address))) == primary.port


async def test_commands_work_with_several_hosts(shared_servers: Replication) -> None:
    name = shared_servers.primary.create_database()
    primary, standby = shared_servers.primary, shared_servers.standby
    settings = Settings(database_url=url_of(standby.address, primary.address, database=name))
    assert await migrate(settings) == []
    assert (await verify_ledger(settings)).differences == []


def test_a_key_is_created_on_the_primary_of_several_hosts(shared_servers: Replication) -> None:
    name = shared_servers.primary.create_database()
    url = url_of(shared_servers.standby.address, shared_servers.primary.address, database=name)
    done = run_main(main, "keys", "create", "--name", "a", "--scope", "admin", environment={"DATABASE_URL": url})
    assert done.returncode == 0, done
    assert shared_servers.primary.execute_in(name, "SELECT count(*) FROM api_keys") == 1


@pytest.mark.parametrize("several", [True, False])
async def test_a_standby_is_not_used_unless_it_is_asked_for(shared_servers: Replication, several: bool) -> None:
    standby, gone = shared_servers.standby.address, f"127.0.0.1:{free_port()}"
    addresses = [gone, standby] if several else [standby]
    with pytest.raises(NoPrimaryError, match=f"{standby}: a standby"):
        await port_of(Settings(database_url=url_of(*addresses)))
    asked = Settings(database_url=f"{url_of(*addresses)}?target_session_attrs=any")
    assert await port_of(asked) == shared_servers.standby.port


async def test_why_no_host_can_be_used_is_said(shared_servers: Replication) -> None:
    gone = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(NoPrimaryError, match=f"{gone[0]}: .*refused.*{gone[1]}: .*refused"):
        await port_of(Settings(database_url=url_of(*gone)))
    address = shared_servers.primary.address
    with pytest.raises(asyncpg.InvalidCatalogNameError):  # which the operator has to mend
        await port_of(Settings(database_url=url_of(gone[0], address, database="nowhere")))


async def test_a_silent_host_costs_its_time_out_once(shared_servers: Replication, silent: str) -> None:
    name = shared_servers.primary.create_database()
    timeout = 4.0
    url = url_of(silent, shared_servers.primary.address, database=name)
    with running_service(Settings(database_url=url, database_timeout=timeout)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            started = time.monotonic()
            await given_customer(http)
            assert time.monotonic() - started > timeout / HOST_TIMEOUTS
            started = time.monotonic()
            (await post(http, "/usage", usage())).require(201)  # on another connection
            await asyncio.gather(*(get(http, "/customers/acme") for _ in range(20)))  # on several others
            assert time.monotonic() - started < timeout / HOST_TIMEOUTS


async def test_the_time_out_of_a_host_can_be_set(shared_servers: Replication, silent: str) -> None:
    url = f"{url_of(silent, shared_servers.primary.address)}?connect_timeout=1"
    started = time.monotonic()
    assert await port_of(Settings(database_url=url, database_timeout=600)) == shared_servers.primary.port
    assert time.monotonic() - started < 600 / HOST_TIMEOUTS


async def test_socket_options_of_the_url_are_set(shared_servers: Replication) -> None:
    url = f"{url_of(shared_servers.primary.address)}?keepalives_idle=31&tcp_user_timeout=7000"
    async with connected(Settings(database_url=url)) as connection:
        of_tcp: socket.socket = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # asyncpg shows it nowhere
        assert of_tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert of_tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 31
        assert of_tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


async def test_after_a_promotion_the_service_goes_on_without_a_restart(servers: Replication) -> None:
    name = servers.primary.create_database()
    servers.primary.replicate_synchronously()
    with running_service(Settings(database_url=servers.url_of(name))) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            (await post(http, "/usage", usage(eventId="before"), key("before"))).require(201)
            servers.primary.kill()
            (await post(http, "/usage", usage(eventId="during"), key("during"))).problem("unavailable")
            (await get(http, "/readyz")).problem("unavailable")
            servers.standby.promote()
            (await post(http, "/usage", usage(eventId="during"), key("during"))).require(201)
            assert (await post(http, "/usage", usage(eventId="before"), key("before"))).replayed
            (await post(http, "/usage/batch", {"records": [usage(eventId="batch")]})).require(200)
            (await get(http, "/readyz")).require(200)
    assert count_on(servers.standby, name) == 3


@pytest.mark.parametrize("frozen", [True, False])
async def test_an_old_primary_is_left_for_a_new_one_for_good(servers: Replication, frozen: bool) -> None:
    """Whether it falls silent or goes on: what is acknowledged after the promotion is with the new one."""
    name = servers.primary.create_database()
    settings = Settings(database_url=servers.url_of(name), database_timeout=10)
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            await given_customer(http)
            await asyncio.gather(*(get(http, "/customers/acme") for _ in range(30)))  # the pool is full
            (await post(http, "/usage", usage(eventId="old"))).require(201)
            servers.primary.await_value("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = sent_lsn", 1)
            if frozen:
                with servers.primary.frozen():
                    servers.standby.promote()
                    await until_records_go_to(http, servers.standby, name)
            else:
                servers.standby.promote()
                await until_records_go_to(http, servers.standby, name)
            old = count_on(servers.primary, name)
            for number in range(5):
                (await post(http, "/usage", usage(eventId=f"new {number}"))).require(201)
                (await post(http, "/usage/batch", {"records": [usage(eventId=f"batch {number}")]})).require(200)
                answers = await asyncio.gather(*(get(http, "/customers/acme/usage?limit=1000") for _ in range(20)))
                assert {len(answer.require(200)["data"]) for answer in answers} == {count_on(servers.standby, name)}
            assert count_on(servers.primary, name) == old
            servers.standby.kill()
            (await post(http, "/usage", usage(eventId="last"))).problem("unavailable")
            assert count_on(servers.primary, name) == old
    both = Settings(database_url=servers.url_of(name))
    servers.standby.start()
    assert await port_of(both) == servers.standby.port  # a new process, too


async def until_records_go_to(http: aiohttp.ClientSession, server: PostgresServer, database: str) -> None:
    """Report usage until it is recorded on a server; that takes a second or two."""
    before, number = await asyncio.to_thread(count_on, server, database), 0
    async with asyncio.timeout(9):
        while await asyncio.to_thread(count_on, server, database) == before:
            await post(http, "/usage", usage(eventId=f"until {number}"))
            number += 1


async def test_connections_that_take_no_writes_are_replaced(shared_servers: Replication) -> None:
    """All of them, after the first that says so: else whether a call succeeds would depend on which one it got."""
    name = shared_servers.primary.create_database()
    url = url_of(shared_servers.primary.address, database=name)
    await execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on", "SELECT 1")
    with running_service(Settings(database_url=url)) as service:
        async with aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            await asyncio.gather(*(get(http, "/customers") for _ in range(30)))  # the pool is full
            (await post(http, "/usage", usage())).problem("customer_not_found")  # nor does the connection for these
            reset = (
                "SET default_transaction_read_only = off",
                f"ALTER DATABASE {name} RESET default_transaction_read_only",
            )
            await execute(url, *reset, "SELECT 1")
            first = await post(http, "/customers", {"id": "first", "name": "First"})
            assert first.status in (201, 503)  # what the service writes by itself may have met the fault before
            await given_customer(http)
            for number in range(10):
                (await post(http, "/usage", usage(eventId=f"{number}"))).require(201)
                (await post(http, "/usage/batch", {"records": [usage(eventId=f"batch {number}")]})).require(200)
