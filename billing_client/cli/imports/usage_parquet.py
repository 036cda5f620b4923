"""Usage as Parquet (extra `parquet`): what an export writes, and what an import reads as if it were NDJSON.

Numbers are text: Arrow's decimals hold 38 or 76 digits in all, amounts have up to 76 before the point and 36 behind it,
and many programs read the long ones as floats.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from billing_client.cli.imports.lines import InputError
from billing_client.contract.decimals import plain

ROWS = 10_000  # of a group: what is in memory at a time
_TEXT, _TIME = pa.string(), pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        pa.field("requestId", _TEXT, nullable=False),
        pa.field("customerId", _TEXT, nullable=False),
        pa.field("service", _TEXT, nullable=False),
        pa.field("unitsConsumed", _TEXT, nullable=False),
        pa.field("pricePerUnit", _TEXT, nullable=False),
        pa.field("amount", _TEXT, nullable=False),
        pa.field("eventId", _TEXT),
        pa.field("occurredAt", _TIME, nullable=False),
        pa.field("recordedAt", _TIME, nullable=False),
        pa.field("voidedAt", _TIME),
        pa.field("recordedBy", _TEXT),
        pa.field("dimensions", pa.map_(_TEXT, _TEXT)),
    ]
)
_TIMES = [field.name for field in SCHEMA if field.type == _TIME]


class ParquetExport:
    """Writes the lines of an NDJSON export as Parquet."""

    def __init__(self, file: IO[bytes]) -> None:
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")

    def add(self, line: bytes) -> None:
        """Add a line. Raises ValueError where it has a member that the schema does not."""
        row: dict[str, Any] = msgspec.json.decode(line)
        if unknown := row.keys() - set(SCHEMA.names):
            raise ValueError(f"the service exports {', '.join(sorted(unknown))}, which this version cannot write")
        for name in _TIMES:
            row[name] = datetime.fromisoformat(text) if (text := row.get(name)) else None
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._write()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows = []


def lines_of(file: Path) -> Iterator[str]:
    """The rows of a Parquet file as lines of NDJSON; columns without a value are left out. Raises InputError."""
    try:
        found = pq.ParquetFile(file)
        for field in found.schema_arrow:
            if pa.types.is_floating(field.type):
                raise InputError(
                    f"its column {field.name} is of type {field.type}, which is not exact: write it as text"
                )
        for batch in found.iter_batches(ROWS):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                given = {name: _plain(value) for name, value in row.items() if value is not None}
                yield msgspec.json.encode(given).decode() + "\n"
    except pa.ArrowException as error:
        raise InputError(f"it is no Parquet file that can be read: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):  # one without a zone is told as such, and refused or read by --timezone
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
    return value
