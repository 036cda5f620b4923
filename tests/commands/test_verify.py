"""`billing-service verify`."""

from pathlib import Path

from billing_client.contract.identity import usage_request_id
from tests.commands import run_command, run_process
from tests.databases import execute, run


def test_verify_names_dimensions_that_were_changed(tmp_path: Path, database_url: str) -> None:
    request_id = usage_request_id("acme", "storage", "1", "2", {"model": "large"})
    given = (
        "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())",
        f"""SELECT record_one_usage('acme', decode('{request_id}', 'hex'), NULL, 'storage', 1, 2, now(), now(), NULL,
            NULL, '{{"model": "large"}}')""",
    )
    run(execute(database_url, *given))
    assert run_command(tmp_path, "verify", DATABASE_URL=database_url)[0] == 0
    run(execute(database_url, """UPDATE usage_records SET dimensions = '{"model": "small"}'""", "SELECT 1"))
    code, output = run_command(tmp_path, "verify", DATABASE_URL=database_url)
    assert (code, f"record {request_id} should be" in output) == (1, True)


def test_verify_exits_with_1_and_names_the_difference(tmp_path: Path, database_url: str) -> None:
    given = (
        "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())",
        "INSERT INTO usage_rollups VALUES ('acme', 15, '2026-01-01Z', 'storage', 1, 1, 1)",
    )
    run(execute(database_url, *given, "SELECT 1"))
    code, output = run_process(tmp_path, "verify", DATABASE_URL=database_url)
    assert code == 1
    assert output.startswith("customer 'acme', service 'storage', quarter of an hour from 2026-01-01")
    assert output.endswith(": 0 records, 1 sums, 0 pieces, 0 statements, 1 differences\n")
    run(execute(database_url, "DELETE FROM usage_rollups", "SELECT 1"))
    code, output = run_command(tmp_path, "verify", DATABASE_URL=database_url)
    assert (code, output.endswith(": 0 records, 0 sums, 0 pieces, 0 statements, 0 differences\n")) == (0, True)
