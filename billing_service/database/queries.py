"""Loads the service's SQL from the files in `sql/`."""

from collections.abc import Mapping
from pathlib import Path

from billing_client.contract.named_queries import read_queries

_PACKAGED = Path(__file__).parents[1] / "sql"
SQL_FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "sql"


def load_queries(noun: str) -> Mapping[str, str]:
    """The queries of `sql/NOUN.sql` by name."""
    return read_queries(SQL_FOLDER / f"{noun}.sql")
