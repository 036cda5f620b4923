"""`billing-service migrate`."""

import re
from pathlib import Path

from tests.commands import run_command, run_process


def test_migrate_tells_what_it_did(tmp_path: Path, empty_database_url: str) -> None:
    code, output = run_process(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert re.search(r": \d+ migrations applied\n  0001 customers_and_usage\n", output)
    code, output = run_command(tmp_path, "migrate", DATABASE_URL=empty_database_url)
    assert code == 0
    assert output.endswith(": nothing to do\n")


def test_the_right_to_manage_keys_is_given_to_a_role(tmp_path: Path, database_url: str) -> None:
    code, output = run_command(tmp_path, "migrate", "--with-keys", DATABASE_URL=database_url)
    assert code == 2
    assert "--with-keys needs --grant-to ROLE" in output
