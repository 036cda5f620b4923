"""Parquet out of `billing export` and into `billing import`."""

import io
import json
import re
import tracemalloc
from datetime import UTC, datetime, time, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from billing_client.cli.imports.lines import InputError
from billing_client.cli.imports.usage_parquet import SCHEMA, LinesAsText, ParquetExport, lines_of
from billing_client.contract.wire import UsageRecord
from tests.calls import exchange, json_request, usage
from tests.cli import billing, failure, given_customer, given_usage
from tests.cli.imports.bills import figures
from tests.cli.test_exports import said
from tests.client.answers import STORED
from tests.ledgers import made_up_usage
from tests.services import Service

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

LONG = "12345678901234567890.123456789012345678"
USE = {"customerId": "acme", "service": "storage", "pricePerUnit": "0.02", "eventId": "a"}


def test_the_columns_are_the_members_of_a_record() -> None:
    assert set(SCHEMA.names) == set(UsageRecord.__struct_encode_fields__)


def test_what_is_exported_is_what_the_service_has_and_can_be_imported(
    service: Service, shared_service: Service, customer: str, tmp_path: Path
) -> None:
    given_customer(service)
    url, file = ("--base-url", service.url), tmp_path / "usage.parquet"
    (voided, *_) = given_usage(
        service,
        usage(unitsConsumed=LONG, pricePerUnit=LONG, eventId="long", dimensions={"region": "eu", "tier": "ü"}),
        *made_up_usage(500, 1),
    )
    void = json_request(f"/customers/acme/usage/{voided['requestId']}/void", b'{"reason": "r"}')
    exchange(service, void).require(200)
    done = billing("export", "-o", file, *url)
    assert (done.stdout, done.stderr) == (f"501 records in {file}\n", "")

    exported = [json.loads(line) for line in said(service).splitlines()]
    rows = pq.read_table(file).to_pylist(maps_as_pydicts="strict")
    assert len(rows) == len(exported) == 501
    for row, record in zip(rows, exported, strict=True):
        for name in ("occurredAt", "recordedAt", "voidedAt"):
            record[name] = datetime.fromisoformat(record[name]) if record[name] else None
        assert {name: value for name, value in row.items() if value is not None} == {
            name: value for name, value in record.items() if value is not None
        }
    again = billing("import", file, "--json", *url)
    assert json.loads(again.stdout)["duplicate"] == 501, again
    assert json.loads(again.stdout)["rejected"] == 0


def write(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def test_types_that_are_exact_are_read_and_what_is_not_is_refused(
    shared_service: Service, customer: str, tmp_path: Path
) -> None:
    url = ("--base-url", shared_service.url)
    names = {"customerId": [customer] * 2, "service": ["storage"] * 2, "eventId": ["a", "b"]}
    at = pa.array([datetime(2026, 10, 1, tzinfo=UTC)] * 2, pa.timestamp("ms", "Europe/Berlin"))
    exact = pa.array([Decimal("1.50"), Decimal("0.25")], pa.decimal128(38, 18))
    file = write(tmp_path / "usage.bin", **names, unitsConsumed=exact, pricePerUnit=[2, 3], occurredAt=at)
    done = billing("import", file, *url)  # it is recognised by what is in it
    assert figures(done.stdout)["recorded"] == "2"
    assert figures(done.stdout)["total as stored"] == "3.75"

    floats = write(tmp_path / "floats.parquet", **names, unitsConsumed=[1.5, 0.25], pricePerUnit=[2, 3])
    assert "column unitsConsumed is of type double, which is not exact" in failure(billing("import", floats, *url), 1)

    unknown = write(tmp_path / "unknown.parquet", **names, unitsConsumed=[1, 2], pricePerUnit=["1", "x"])
    assert figures(billing("import", unknown, *url).stdout)["rejected"] == "2"  # one is a conflict
    left = (tmp_path / "unknown.rejected.ndjson").read_text().splitlines()
    assert [json.loads(line).get("line") for line in left[::2]] == [1, 2]


def test_what_is_no_parquet_and_where_it_cannot_come_from(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more")
    assert "no Parquet file that can be read" in failure(billing("import", broken), 1)
    assert "give a file in the place of -" in failure(billing("import", "-", "--format", "parquet"), 2)
    to_stdout = billing("export", "--format", "parquet")
    assert (to_stdout.returncode, to_stdout.stdout) == (2, "")
    assert "give -o FILE" in to_stdout.stderr


@pytest.mark.parametrize("name", ["usage.xlsx", "usage.csv.gz", "usage.txt"])
def test_a_name_that_says_no_known_format_is_refused(name: str, tmp_path: Path) -> None:
    refused = billing("export", "-o", tmp_path / name)
    assert refused.returncode == 2
    assert "end it in one of .ndjson, .jsonl, .csv, .parquet, or give --format" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def rows_of(file: Path, zone: tzinfo | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(file, zone)]


def row(**columns: Any) -> dict[str, Any]:
    return {name: [value] for name, value in {**USE, "unitsConsumed": "1"}.items()} | columns


ENDS = bytes(4) + b"\1\0\0\0"  # where a text of one byte begins and ends
UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "bytes, which would be encoded": (row(customerId=[b"acme"]), "customerId is of type binary: write it as text"),
    "yes or no": (row(unitsConsumed=[True]), "unitsConsumed is of type bool"),
    "a time of day": (row(occurredAt=[time(1)]), "occurredAt is of type time64"),
    "a list": (row(service=[["storage"]]), "service is of type list"),
    "floats in a map": (row(dimensions=pa.array([[("a", 0.1)]], pa.map_(pa.string(), pa.float64()))), "not exact"),
    "a year that no clock has": (row(occurredAt=pa.array([2**55], pa.timestamp("ms", "UTC"))), "out of range"),
    "one name twice": (row(dimensions=pa.array([[("a", "x"), ("a", "y")]], pa.map_(pa.string(), pa.string()))), "'a'"),
    "a long text": (row(service=["x" * 20_000]), "a text of more than 16384 bytes"),
    "a long text in a map": (row(dimensions=[{"a": "x" * 20_000}]), "a text of more than 16384 bytes"),
    "text that is none": (
        row(service=pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ENDS), pa.py_buffer(b"\xff")])),
        "codec can't decode",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "fault"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_column_that_cannot_be_read_for_what_it_says_is_refused(
    columns: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(fault)):
        rows_of(write(tmp_path / "usage.parquet", **columns))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    names = ["customerId", "unitsConsumed", "unitsConsumed"]
    pq.write_table(pa.Table.from_arrays([["acme"], ["1"], ["999"]], names=names), tmp_path / "usage.parquet")
    with pytest.raises(InputError, match="more than one column 'unitsConsumed'"):
        rows_of(tmp_path / "usage.parquet")


def test_times_are_cut_to_microseconds_and_have_the_zone_that_is_told(tmp_path: Path) -> None:
    nanoseconds = [1_767_225_600_123_456_789]
    told = write(tmp_path / "told.parquet", **row(occurredAt=pa.array(nanoseconds, pa.timestamp("ns", "UTC"))))
    assert rows_of(told)[0]["occurredAt"] == "2026-01-01T00:00:00.123456+00:00"
    silent = write(tmp_path / "silent.parquet", **row(occurredAt=pa.array(nanoseconds, pa.timestamp("ns"))))
    assert rows_of(silent)[0]["occurredAt"] == "2026-01-01T00:00:00.123456"  # which an import refuses
    assert rows_of(silent, ZoneInfo("Asia/Tokyo"))[0]["occurredAt"] == "2025-12-31T15:00:00.123456+00:00"


def test_a_file_does_not_choose_how_much_memory_and_disk_it_takes(tmp_path: Path) -> None:
    """Dictionaries and run lengths make gigabytes of a kilobyte."""
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 100_000]))
    bomb = write(tmp_path / "bomb.parquet", service=many)
    assert bomb.stat().st_size < 10_000  # of 20 GB
    with pytest.raises(InputError, match="a text of more than"):
        rows_of(bomb)
    rows = write(tmp_path / "rows.parquet", service=pa.array(["storage"] * 500_000))
    lines, left = lines_of(rows), LinesAsText(lines_of(rows))
    assert left.readline(5) + left.readline() == next(lines)
    tracemalloc.start()
    for _ in range(10_000):
        next(lines)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_no_rows_are_no_fault_and_a_damaged_file_is_told(
    shared_service: Service, customer: str, tmp_path: Path
) -> None:
    url = ("--base-url", shared_service.url)
    empty = tmp_path / "empty.parquet"
    pq.write_table(SCHEMA.empty_table(), empty)
    assert figures(billing("import", empty, *url).stdout)["lines read"] == "0"
    whole = write(tmp_path / "whole.parquet", **row(customerId=[customer], unitsConsumed=[1])).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-8] + bytes(4) + b"PAR1")
    assert "it is no Parquet file that can be read" in failure(billing("import", tmp_path / "cut.parquet", *url), 1)


@pytest.mark.parametrize(
    "changes", [{"service": None}, {"later": "member"}, {"service": 1}, {"occurredAt": 1}, {"dimensions": "x"}]
)
def test_a_line_that_is_no_record_is_not_written(changes: dict[str, Any]) -> None:
    with ParquetExport(io.BytesIO()) as parquet:
        parquet.add(json.dumps(STORED).encode())
    with pytest.raises(ValueError, match=r"."), ParquetExport(io.BytesIO()) as parquet:
        parquet.add(json.dumps(STORED | changes).encode())
