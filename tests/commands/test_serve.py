"""`billing-service serve`: how it starts, runs and stops."""

import asyncio
import re
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
import uvloop

from billing_service.commands.serve import ACCEPTS_AT_ONCE, listeners_of
from tests.calls import get, given_customer, post, usage
from tests.commands import failure, failure_of_process, postmaster_pid, run_command
from tests.databases import execute, run
from tests.services import ServiceProcess, free_port, get_status, serve_process


def open_files(pid: int) -> Counter[Path]:
    """What a process has open, and how often; nothing on other systems than Linux."""
    return Counter(each.readlink() for each in Path(f"/proc/{pid}/fd").glob("*"))


async def test_serve_on_the_embedded_database_says_where_it_is_and_keeps_its_data(
    tmp_path: Path, data_dir: Path
) -> None:
    where = {"BILLING_DATA_DIR": str(data_dir)}
    with serve_process(tmp_path, None, environment=where) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            recorded = (await post(http, "/usage", usage())).require(201)
        assert postmaster_pid(data_dir) is not None
        files = open_files(served.service.process.pid)
        assert not files or max(files.values()) == ACCEPTS_AT_ONCE
        assert served.service.terminate(signal.SIGTERM) == 0
        output = served.service.output
    assert re.search(rf"listens on +{served.url}\n", output)
    assert re.search(rf"data +.*{data_dir}\n", output)
    assert re.search(r"API keys +not needed in development", output)
    assert f"curl {served.url}/usage" in output
    assert "Traceback" not in output
    assert postmaster_pid(data_dir) is None

    with serve_process(tmp_path, None, environment=where) as served:
        async with aiohttp.ClientSession(served.url) as http:
            again = await get(http, f"/customers/acme/usage/{recorded['requestId']}")
            assert again.require(200) == recorded
        assert served.service.terminate(signal.SIGINT) == 0
    assert postmaster_pid(data_dir) is None


def test_an_embedded_server_that_a_crash_left_running_is_used_again_and_stopped(tmp_path: Path, data_dir: Path) -> None:
    where = {"BILLING_DATA_DIR": str(data_dir)}
    with serve_process(tmp_path, None, environment=where) as served:
        served.service.kill()
    with serve_process(tmp_path, None, environment=where) as served:
        assert served.service.terminate() == 0
    assert postmaster_pid(data_dir) is None


def test_a_stop_while_it_starts_leaves_nothing_running(tmp_path: Path, data_dir: Path) -> None:
    arguments = ("serve", "--port", str(free_port()))
    pid_file = data_dir / "postmaster.pid"
    with ServiceProcess(tmp_path, *arguments, environment={"BILLING_DATA_DIR": str(data_dir)}) as service:
        while not (pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")):
            assert service.process.poll() is None, service.output
            time.sleep(0.001)
        service.terminate()  # its migrations are under way, or have not begun
    assert postmaster_pid(data_dir) is None


def test_many_connections_are_accepted_between_two_rounds_of_work() -> None:
    """Or whoever opens them faster than the service has rounds keeps all others waiting, for seconds."""
    accepted: list[int] = []  # in which round
    rounds = 0

    class Noted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(rounds)
            transport.close()

    async def accept(listeners: list[socket.socket], count: int) -> None:
        nonlocal rounds
        servers = [await asyncio.get_running_loop().create_server(Noted, sock=each) for each in listeners]
        while len(accepted) < count:
            rounds += 1
            await asyncio.sleep(0)
        for server in servers:
            server.close()
            await server.wait_closed()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        for _ in range(2 * ACCEPTS_AT_ONCE):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(accept(listeners_of(listener), 2 * ACCEPTS_AT_ONCE))
    assert max(Counter(accepted).values()) == ACCEPTS_AT_ONCE


async def test_two_workers_serve_one_database(tmp_path: Path, database_url: str) -> None:
    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing-service'"
    backends += " AND datname = current_database()"
    variables = {"BILLING_POOL_SIZE": "2"}
    with serve_process(tmp_path, database_url, "--workers", "2", environment=variables) as served:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(served.url, connector=connector) as http:
            await given_customer(http)
            async with asyncio.timeout(60):
                while await execute(database_url, backends) <= 2:  # a single worker never has more
                    answers = await asyncio.gather(*(get(http, "/customers/acme") for _ in range(50)))
                    assert {answer.status for answer in answers} == {200}
        assert served.service.terminate() == 0
    assert "Traceback" not in served.service.output


def test_a_port_in_use_ends_it_before_a_database_is_started(tmp_path: Path, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failure_of_process(tmp_path, "serve", "--port", str(port), BILLING_DATA_DIR=str(data_dir))
    assert line.startswith(f"billing-service: BILLING_PORT: {port} on 127.0.0.1 ")
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--port", "0"], "BILLING_PORT: 0 is not valid"),
        (["--workers", "0"], "BILLING_WORKERS: 0 is not valid"),
        (["--host", ""], "BILLING_HOST: '' is not valid"),
        (["--host", "no.such.host.invalid"], "BILLING_HOST: 'no.such.host.invalid' cannot be listened on ("),
        (["--host", "192.0.2.1"], "BILLING_HOST: '192.0.2.1' cannot be listened on ("),
        (["--host", "a..b"], "BILLING_HOST: 'a..b' cannot be listened on ("),
        (["--host", "a" * 64], "BILLING_HOST: 'aaa"),
    ],
)
def test_a_bad_option_is_told_in_one_line(tmp_path: Path, arguments: list[str], start: str) -> None:
    line = failure(tmp_path, "serve", *arguments, DATABASE_URL="postgresql://localhost/billing")
    assert line.startswith(f"billing-service: {start}")


def test_staging_is_migrated_by_its_operator_before_it_serves(tmp_path: Path, empty_database_url: str) -> None:
    staging = {"BILLING_ENV": "staging", "DATABASE_URL": empty_database_url}
    line = failure(tmp_path, "serve", "--port", str(free_port()), **staging)
    assert "Run: billing-service migrate" in line
    assert run(execute(empty_database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0
    code, output = run_command(tmp_path, "migrate", **staging)
    assert code == 0, output
    for_people = staging | {"BILLING_LOG_FORMAT": "console"}
    with serve_process(tmp_path, empty_database_url, environment=for_people) as served:
        assert get_status(served.host, served.port, "/readyz") == 200
        assert served.service.terminate() == 0
    assert ", staging" in served.service.output
    assert re.search(r"API keys +needed; make one: billing-service keys create", served.service.output)
    assert f'curl {served.url}/usage -H "Authorization: Bearer $BILLING_API_KEY"' in served.service.output
