"""Named SQL, read from the files of `sql/`: each query stands under a line `-- name: what it is for`."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_PACKAGED = Path(__file__).parent / "sql"
SQL_FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "sql"
_HEADING = re.compile(r"^-- (\w+): .*\n(?:--.*\n)*", re.MULTILINE)


def load_queries(noun: str) -> Mapping[str, str]:
    """The queries of `sql/NOUN.sql` by name."""
    text = (SQL_FOLDER / f"{noun}.sql").read_text(encoding="utf-8")
    _, *parts = _HEADING.split(text)
    return MappingProxyType({name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)})
