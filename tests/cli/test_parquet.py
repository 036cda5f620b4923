"""Parquet out of `billing export` and into `billing import`."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_client.cli.imports.usage_parquet import SCHEMA
from billing_client.contract.wire import UsageRecord
from tests.calls import exchange, json_request, usage
from tests.cli import billing, failure, given_customer, given_usage
from tests.cli.imports.bills import figures
from tests.cli.test_exports import said
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
