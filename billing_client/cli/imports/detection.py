"""Which format a file has: what it says of itself counts, not how it is named."""

from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Literal, get_args

from billing_client.cli.imports.csv_tables import Table
from billing_client.cli.imports.focus_csv import FocusBill
from billing_client.cli.imports.lines import InputError, TextLines, UsageSource
from billing_client.cli.imports.usage_csv import UsageCsv
from billing_client.cli.imports.usage_ndjson import UsageNdjson

InputFormat = Literal["focus", "csv", "ndjson", "parquet"]
NAMES: tuple[InputFormat, ...] = get_args(InputFormat)
_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")  # how its byte order mark is read
_TABLES = {"focus": FocusBill, "csv": UsageCsv}


def is_parquet(file: Path, name: InputFormat | None) -> bool:
    """Whether a file is Parquet, by the name of its format or by how it begins."""
    if name is not None or str(file) == "-":
        return name == "parquet"
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def read_file(
    lines: TextLines,
    name: InputFormat | None,
    zone: tzinfo | None = None,
    dimensions: Mapping[str, str] | None = None,
) -> UsageSource:
    """The usage in the lines of a file, in the format of that name or its own.

    `zone` is that of times without an offset; `dimensions` name the columns of a table from which they are taken. The
    rows of Parquet come as NDJSON.

    Raises InputError.
    """
    first = lines.first()
    if name in ("ndjson", "parquet") or (name is None and first.lstrip().startswith("{")):
        if dimensions:
            raise InputError(
                "it is no CSV, and its lines have a member dimensions; --dimension is for the columns of CSV"
            )
        return UsageNdjson(lines)
    if not first and name is None:
        raise InputError("it is empty")
    if "\0" in first or first.startswith(_UTF_16):
        raise InputError("it is not text in UTF-8")
    table = Table(lines)
    if name is not None:
        return _TABLES[name](table, zone, dimensions)
    named = {format_: len(set(format_.required) & set(table.header)) for format_ in _TABLES.values()}
    if not any(named.values()):
        raise InputError(
            f"it is neither NDJSON, nor CSV whose first line names {', '.join(UsageCsv.required)}, "
            f"or (FOCUS) {', '.join(FocusBill.required)}"
        )
    return max(named, key=lambda format_: named[format_])(table, zone, dimensions)
