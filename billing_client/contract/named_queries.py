"""Named SQL, read from a file: each query stands under a line `-- name: what it is for`."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_HEADING = re.compile(r"^-- (\w+): .*\n(?:--.*\n)*", re.MULTILINE)


def read_queries(file: Path) -> Mapping[str, str]:
    """The queries of a file by name, in its order."""
    _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
    return MappingProxyType({name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)})
