"""The loader of named SQL."""

import re
from collections.abc import MutableMapping
from typing import cast

import pytest

from billing_service.database.queries import SQL_FOLDER, load_queries

NOUNS = sorted(path.stem for path in SQL_FOLDER.glob("*.sql"))


@pytest.mark.parametrize("noun", NOUNS)
def test_every_query_has_a_name_a_purpose_and_one_statement(noun: str) -> None:
    queries = load_queries(noun)
    text = (SQL_FOLDER / f"{noun}.sql").read_text(encoding="utf-8")
    assert list(queries) == [
        line[3:].partition(":")[0] for line in text.splitlines() if line.startswith("-- ") and ": " in line
    ]
    for sql in queries.values():
        assert sql.endswith(";")
        assert re.sub(r"\$\$.*\$\$", "", sql, flags=re.DOTALL).count(";") == 1  # a block's own lie within it
        assert not sql.startswith("--")


def test_queries_cannot_be_changed() -> None:
    queries = cast(MutableMapping[str, str], load_queries("usage"))
    with pytest.raises(TypeError):
        queries["record_usage"] = "DROP TABLE usage_records"


def test_a_noun_without_a_file_is_a_fault_at_start() -> None:
    with pytest.raises(FileNotFoundError):
        load_queries("no_such_noun")
