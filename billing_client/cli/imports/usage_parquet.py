"""Usage as Parquet (extra `parquet`): what an export writes, and what an import reads as if it were NDJSON.

Numbers are text: Arrow's decimals hold 38 or 76 digits in all, amounts have up to 76 before the point and 36 behind it,
and many programs read the long ones as floats.
"""

import io
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from billing_client.cli.imports.lines import InputError
from billing_client.contract.decimals import plain

ROWS = 10_000  # of a group that is written: what is in memory at a time
READ_ROWS = 1_000  # that are read at a time
MOST_TEXT_BYTES = 16 * 1024  # of a cell; the longest that the API takes is dimensions, with 13,000
MOST_COLUMN_BYTES = 256 * 1024 * 1024  # of a column in one row group
_READABLE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_decimal,
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_null,
)
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
_REQUIRED = [field.name for field in SCHEMA if not field.nullable]
_TIMES = [field.name for field in SCHEMA if field.type == _TIME]


_decode_row = msgspec.json.Decoder(dict[str, Any]).decode


class ParquetExport:
    """Writes the lines of an NDJSON export as Parquet; its `with` block writes the end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")

    def add(self, line: bytes) -> None:
        """Add a line. Raises ValueError where it is no record, or has a member that the schema does not."""
        row = _decode_row(line)
        if unknown := row.keys() - set(SCHEMA.names):
            raise ValueError(f"the service exports {', '.join(sorted(unknown))}, which this version cannot write")
        if missing := [name for name in _REQUIRED if row.get(name) is None]:
            raise ValueError(f"it has no {', '.join(missing)}")
        for name in _TIMES:
            row[name] = datetime.fromisoformat(str(text)) if (text := row.get(name)) else None
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._writer.close()  # else it would try when it is collected, and its file be closed

    def _write(self) -> None:
        if self._rows:
            try:
                self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            except (pa.ArrowException, TypeError) as error:  # its own errors are not all of one kind
                raise ValueError(str(error)) from error
            self._rows = []


def lines_of(file: Path, zone: tzinfo | None = None) -> Iterator[str]:
    """The rows of a Parquet file as lines of NDJSON, a few at a time; columns without a value are left out.

    Args:
        file: The file.
        zone: Of times without one. Without it they are told as such, and refused line by line.

    Raises:
        InputError: It is no Parquet file, or has what is not exact, or not text where the API has text.
    """
    try:
        for batch in _batches_of(file):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                given = {name: _plain(value, zone) for name, value in row.items() if value is not None}
                yield msgspec.json.encode(given).decode() + "\n"
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise InputError(f"it is no Parquet file that can be read: {error}") from error


def _batches_of(file: Path) -> Iterator[Any]:
    """The rows in batches, in memory that the file does not choose: a kilobyte of it may stand for gigabytes."""
    texts = [field.name for field in pq.read_schema(file) if pa.types.is_string(field.type)]
    found = pq.ParquetFile(file, read_dictionary=texts)
    _check_columns(found.schema_arrow)
    groups = map(found.metadata.row_group, range(found.num_row_groups))
    if any(group.column(at).total_uncompressed_size > MOST_COLUMN_BYTES for group in groups for at in _columns(group)):
        raise InputError(f"a column of a row group has more than {MOST_COLUMN_BYTES} bytes; write smaller row groups")
    for batch in found.iter_batches(READ_ROWS):
        if max(map(_longest, batch.columns), default=0) > MOST_TEXT_BYTES:
            raise InputError(f"it holds a text of more than {MOST_TEXT_BYTES} bytes")
        yield pa.RecordBatch.from_arrays(list(map(_in_microseconds, batch.columns)), batch.schema.names)


def _columns(group: Any) -> range:
    return range(group.num_columns)


def _check_columns(schema: Any) -> None:
    """Raises InputError where a column cannot be read for what it says."""
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise InputError(f"it has more than one column {twice[0]!r}")
    for field in schema:
        if any(pa.types.is_floating(kind) for kind in _kinds_in(field.type)):
            raise InputError(f"its column {field.name} is of type {field.type}, which is not exact: write it as text")
        if not all(_is_readable(kind) for kind in _kinds_in(field.type)):
            raise InputError(f"its column {field.name} is of type {field.type}: write it as text")


def _kinds_in(kind: Any) -> list[Any]:
    """A type, or those that it is made of."""
    if pa.types.is_dictionary(kind):
        return _kinds_in(kind.value_type)
    if pa.types.is_map(kind):
        return [*_kinds_in(kind.key_type), *_kinds_in(kind.item_type)]
    if pa.types.is_struct(kind):
        return [each for at in range(kind.num_fields) for each in _kinds_in(kind.field(at).type)]
    return [kind]


def _is_readable(kind: Any) -> bool:
    """Whether values of a type are what they seem. Bytes would be encoded, and stand for another text."""
    return any(is_kind(kind) for is_kind in _READABLE)


def _longest(column: Any) -> int:
    """The bytes of the longest text in a column."""
    if pa.types.is_dictionary(column.type):
        return _longest(column.dictionary)
    if pa.types.is_map(column.type):
        return max(_longest(column.keys), _longest(column.items))
    if pa.types.is_struct(column.type):
        return max(map(_longest, column.flatten()), default=0)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.max(pc.binary_length(column)).as_py() or 0
    return 0


def _in_microseconds(column: Any) -> Any:
    """A column of nanoseconds cut to microseconds, as the API cuts times."""
    if not (pa.types.is_timestamp(column.type) and column.type.unit == "ns"):
        return column
    return pc.floor_temporal(column, unit="microsecond").cast(pa.timestamp("us", column.type.tz))


def _plain(value: Any, zone: tzinfo | None) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        at = value if value.tzinfo else value.replace(tzinfo=zone)
        return at.astimezone(UTC).isoformat() if at.tzinfo else at.isoformat()
    return value


class LinesAsText(io.TextIOBase):
    """Lines as a text file that is read from its begin to its end."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._rest = ""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed has the name of IOBase
        """The next line, or so many characters of it."""
        line = self._rest or next(self._lines, "")
        end = len(line) if size < 0 else size
        self._rest = line[end:]
        return line[:end]
