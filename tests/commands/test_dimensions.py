"""`billing-service dimensions`."""

from pathlib import Path

from tests.commands import run_command
from tests.databases import execute, run


def test_dimensions_are_added_listed_and_removed(tmp_path: Path, database_url: str) -> None:
    run(execute(database_url, "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())", "SELECT 1"))
    url = {"DATABASE_URL": database_url}
    assert run_command(tmp_path, "dimensions", "list", **url) == (0, "")
    assert run_command(tmp_path, "dimensions", "add", "model", **url) == (0, "1 of 1 customers\nmodel is summed up\n")
    assert run_command(tmp_path, "dimensions", "add", "model", **url) == (0, "model is summed up\n")
    code, output = run_command(tmp_path, "dimensions", "list", **url)
    assert (code, output.startswith("model  summed up since 2")) == (0, True)
    assert run_command(tmp_path, "dimensions", "remove", "model", **url) == (0, "model is no longer summed up\n")
    code, output = run_command(tmp_path, "dimensions", "remove", "model", **url)
    assert (code, "model is not summed up" in output) == (1, True)
    code, output = run_command(tmp_path, "dimensions", "add", "x" * 65, **url)
    assert (code, "length <= 64" in output) == (2, True)
