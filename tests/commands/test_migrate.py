"""`billing-service migrate`."""

import re
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.commands import run_command, run_process
from tests.services import ServiceProcess

LOCK = "SELECT pg_advisory_xact_lock(hashtext('billing_service.schema_migrations'))"
WAITING = """SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"""


def test_migrate_tells_what_it_did(tmp_path: Path, empty_database_url: str) -> None:
    code, output = run_process(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert re.search(r": \d+ migrations applied\n  0001 customers_and_usage\n", output)
    code, output = run_command(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert output.endswith(": nothing to do\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_is_interrupted_says_that_it_is_not_done(
    tmp_path: Path, empty_database_url: str, number: signal.Signals
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        async with connection.transaction():
            await connection.execute(LOCK)
            with ServiceProcess(tmp_path, "migrate", environment={"DATABASE_URL": empty_database_url}) as migrating:
                while not await connection.fetchval(WAITING):
                    assert migrating.process.poll() is None, migrating.output
                assert migrating.terminate(number) == 128 + number
    finally:
        await connection.close()


def test_the_right_to_manage_keys_is_given_to_a_role(tmp_path: Path, database_url: str) -> None:
    code, output = run_command(tmp_path, "migrate", "--with-keys", DATABASE_URL=database_url)
    assert code == 2
    assert "--with-keys needs --grant-to ROLE" in output
