"""The service runs as a role of the database that may do no more than it does."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from billing_service.__main__ import main
from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from billing_service.settings import Settings
from tests.calls import exchange, request_head
from tests.databases import execute, run
from tests.keys import given_key, id_of
from tests.operations import Target, examples, name_of, send_example
from tests.programs import Finished, bare_environment, run_main
from tests.security.conftest import Victim
from tests.services import Service, serve_process

CHANGED = {
    ("customers", "name"),
    ("customers", "updated_at"),
    ("usage_rollups", "records"),
    ("usage_rollups", "units"),
    ("usage_rollups", "amount"),
    *(("credit_rollups", sum_) for sum_ in ("records", "units", "amount")),
    *(("dimension_rollups", part + sum_) for part in ("", "credit_") for sum_ in ("records", "units", "amount")),
    ("usage_rollups", "voided"),
    ("service_activity", "last_recorded_at"),
    ("service_activity", "times_active"),
    ("api_keys", "last_used_at"),
}
WRITTEN = {"customers", "usage_records", "usage_voids", "usage_rollups", "statements", "service_activity"} | {
    "changes",
    "issued_statements",
    "usage_pieces",
    "usage_piece_parts",
    "console_sessions",
    "credit_rollups",
    "dimension_rollups",
    "usage_refusals",
}
DELETED = {"changes", "console_sessions", "usage_refusals"}  # old ones
COLUMNS = """SELECT table_name::text, column_name::text FROM information_schema.columns
    JOIN information_schema.tables USING (table_schema, table_name)
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name !~ '_[0-9]{6,}$'
    ORDER BY 1, 2"""  # without the shards of a cluster


@pytest.fixture(scope="module")
def role_url(database_url: str) -> Iterator[str]:
    """The URL of this module's database for a role that `migrate --grant-to` gave its rights."""
    role = f"billing_test_{uuid4().hex[:12]}"
    create = f"CREATE ROLE {role} LOGIN PASSWORD 'a test'"  # in this database, so that a cluster makes it on all nodes
    run(execute(database_url, create, "SELECT 1"))
    try:
        command = [sys.executable, "-m", "billing_service", "migrate", "--grant-to", role]
        subprocess.run(command, env=bare_environment() | {"DATABASE_URL": database_url}, check=True)
        parts = urlsplit(database_url)
        host = parts.netloc.rpartition("@")[2]
        yield urlunsplit(parts._replace(netloc=f"{role}:a%20test@{host}"))
    finally:
        run(execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}", "SELECT 1"))


def migrate(url: str, role: str, *options: str) -> Finished:
    return run_main(main, "migrate", "--grant-to", role, *options, environment={"DATABASE_URL": url})


def manage_keys(url: str, *arguments: str) -> Finished:
    return run_main(main, "keys", *arguments, environment={"DATABASE_URL": url, "BILLING_ENV": "production"})


@pytest.fixture(scope="module")
def settings(role_url: str) -> Settings:
    """The settings of a service that runs as the role."""
    return Settings(database_url=role_url, env="production")


@pytest.fixture(scope="module")
def key_of(database_url: str) -> Callable[..., str]:
    """Makes keys, as the owner of the tables does."""
    return lambda *scopes, **bound: run(given_key(database_url, *scopes, **bound))


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.documented], ids=name_of)
def test_every_operation_works(service: Service, victim: Victim, admin: str, operation: Operation) -> None:
    for request in examples(operation, Target(victim.customer_id, victim.request_id, victim.digest)):
        answer = send_example(service, request, admin)
        if operation.tag == "keys" and operation.method != "GET":  # which was not granted
            assert "--with-keys" in answer.problem("forbidden")["detail"]
        else:
            assert answer.status in (200, 201, 409), answer


def test_the_process_starts_and_notes_what_it_notes(tmp_path: Path, role_url: str, database_url: str) -> None:
    key = run(given_key(database_url, "admin"))
    with serve_process(tmp_path, role_url, environment={"BILLING_ENV": "production"}) as served:
        exchange(served, request_head("GET", "/customers", f"Authorization: Bearer {key}")).require(200)
        assert served.service.terminate() == 0
    assert "permission denied" not in served.service.output
    last_use = f"SELECT last_used_at FROM api_keys WHERE key_id = '{id_of(key)}'"
    assert run(execute(database_url, last_use)) is not None


async def refused(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> bool:
    """Whether the role lacks the right for a statement, which changes nothing in any case."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
            raise AssertionError(f"it may: {statement}")
    except asyncpg.InsufficientPrivilegeError:
        return True


async def test_it_may_do_nothing_else(role_url: str, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    columns = [tuple(row) for row in await connection.fetch(COLUMNS)]
    tables = {table for table, _ in columns}
    assert {table for table, _ in CHANGED} | WRITTEN <= tables
    role = await asyncpg.connect(role_url)
    try:
        for table in sorted(tables):
            await role.fetch(f"SELECT * FROM {table}")
            for statement in ("TRUNCATE", "DROP TABLE", *(() if table in DELETED else ("DELETE FROM", "LOCK TABLE"))):
                assert await refused(role, f"{statement} {table}")
            assert await refused(role, f"ALTER TABLE {table} ADD COLUMN more text")
            assert await refused(role, f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION x()")
            if table not in WRITTEN:
                assert await refused(role, f"INSERT INTO {table} DEFAULT VALUES")
        for table, column in columns:
            if (table, column) not in CHANGED:
                assert await refused(role, f"UPDATE {table} SET {column} = {column}")
        for statement in (
            "CREATE TABLE more (id integer)",
            "CREATE OR REPLACE FUNCTION record_usage() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA more",
            "CREATE ROLE another",
            "COPY customers TO PROGRAM 'cat'",
            "SELECT pg_read_file('/etc/passwd')",
        ):
            assert await refused(role, statement)
    finally:
        await role.close()


def test_what_it_had_besides_is_taken_from_it(role_url: str, database_url: str) -> None:
    name = str(urlsplit(role_url).username)
    run(
        execute(
            database_url, *(f"GRANT ALL ON {table} TO {name}" for table in ("usage_records", "api_keys")), "SELECT 1"
        )
    )
    done = migrate(database_url, name)
    assert done.returncode == 0, done.stderr
    for table in ("usage_records", "api_keys"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            run(execute(role_url, f"DELETE FROM {table}", "SELECT 1"))


CREATE = ("create", "--name", "mine", "--scope", "admin")
MAY_NOT = """billing-service: the database role that DATABASE_URL names may not create or revoke keys. \
Use the owner's DATABASE_URL, or let the owner run: billing-service migrate --grant-to ROLE --with-keys
"""


def test_it_manages_no_keys_and_is_told_what_is_missing(role_url: str, database_url: str) -> None:
    key = run(given_key(database_url, "usage:read"))
    for arguments in (CREATE, ("revoke", id_of(key))):
        done = manage_keys(role_url, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", MAY_NOT)
    assert id_of(key) in manage_keys(role_url, "list").stdout


def test_it_manages_keys_where_that_is_granted_and_only_as_long(role_url: str, database_url: str) -> None:
    name = str(urlsplit(role_url).username)
    assert migrate(database_url, name, "--with-keys").returncode == 0
    done = manage_keys(role_url, *CREATE)
    assert done.returncode == 0, done.stderr
    revoked = manage_keys(role_url, "revoke", id_of(done.stdout))
    assert revoked.returncode == 0, revoked.stderr
    for statement in ("DELETE FROM api_keys", "UPDATE api_keys SET secret_sha256 = secret_sha256"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            run(execute(role_url, statement, "SELECT 1"))
    assert migrate(database_url, name).returncode == 0
    assert manage_keys(role_url, *CREATE).stderr == MAY_NOT


def test_a_right_that_is_missing_elsewhere_is_told_in_one_line(role_url: str) -> None:
    done = run_main(main, "migrate", environment={"DATABASE_URL": role_url})
    assert done.returncode == 1
    assert done.stderr.startswith("billing-service: the database refused: ")
    assert done.stderr.endswith("let the owner run: billing-service migrate --grant-to ROLE\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("role", ["no_such_role", 'x"; DROP TABLE customers; --', "x' OR ''='"])
def test_a_role_that_is_not_there_is_told_in_one_line(database_url: str, role: str) -> None:
    done = migrate(database_url, role)
    assert done.returncode == 1
    assert done.stderr.startswith("billing-service: the database refused: role ")
    assert done.stderr.count("\n") == 1
