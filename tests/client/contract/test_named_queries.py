"""The loader of named SQL, and the SQL of the spool."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import cast

import pytest

from billing_client.contract.named_queries import read_queries
from billing_client.spooling import spool_file as _spool_file


def test_every_query_of_the_spool_has_a_name_a_purpose_and_one_statement() -> None:
    file = Path(_spool_file.__file__).with_name("spool.sql")
    headings = [line[3:].partition(":")[0] for line in file.read_text().splitlines() if _is_heading(line)]
    assert list(_spool_file.SQL) == headings
    for sql in _spool_file.SQL.values():
        assert (sql.endswith(";"), sql.count(";"), sql.startswith("--")) == (True, 1, False)


def _is_heading(line: str) -> bool:
    return line.startswith("-- ") and ": " in line


def test_a_heading_may_have_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "things.sql"
    file.write_text("-- first: what it is for,\n-- at length\nSELECT 1;\n\n-- second: the other\nSELECT 2;\n")
    assert dict(read_queries(file)) == {"first": "SELECT 1;", "second": "SELECT 2;"}


def test_queries_cannot_be_changed() -> None:
    queries = cast(MutableMapping[str, str], _spool_file.SQL)
    with pytest.raises(TypeError):
        queries["append"] = "DELETE FROM pending"
