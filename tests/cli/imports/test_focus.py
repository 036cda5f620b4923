"""`billing import` of a cloud bill in FOCUS: each line once, both totals exact."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli import billing, failure
from tests.cli.imports.bills import (
    HEADER,
    customers,
    exact_total,
    import_file,
    left_of,
    line,
    rejects_of,
    stored,
    write_bill,
)
from tests.ledgers import FOCUS_SAMPLE
from tests.services import Service


def test_a_second_import_records_nothing_and_both_totals_agree(service: Service, tmp_path: Path) -> None:
    taken = [
        ("0.000000145300000", "0.085"),
        ("123456789012.123456789", "0.000000000000000001"),
        ("1e3", "7"),
        ("0", "5"),
        ("-0.1", "70"),
    ]
    rows = [line(f"id-{number}", *amounts, tags='{"a": "b, c"}') for number, amounts in enumerate(taken)]
    bill = write_bill(tmp_path / "bill.csv", *rows, line("id-x", "1.5", "-2"), line("id-y", "NULL", "NULL"))

    first = import_file(bill, service, code=1)
    assert first.lines == {"lines read": 7, "recorded": 5, "rejected": 2}
    assert first.totals == (exact_total(taken), exact_total(taken))
    assert "Both totals agree to the last digit." in first.words
    assert "Nothing was recorded" not in first.words

    second = import_file(bill, service, code=1)
    assert second.lines == {"lines read": 7, "replayed": 5, "rejected": 2}
    assert second.totals == first.totals
    assert "Nothing was recorded: all of it had been before." in second.words
    assert len(stored(service, "4711")) == 5

    other = import_file(bill, service, "--batch-size", "3", code=1)  # other batches are other calls
    assert other.lines == {"lines read": 7, "duplicate": 5, "rejected": 2}
    assert other.totals == first.totals


def test_what_is_stored_is_what_the_line_says(service: Service, tmp_path: Path) -> None:
    bill = write_bill(
        tmp_path / "bill.csv",
        line("id-1", "1.50", "0.20", start="2024-09-01 22:30:00"),
        line("id-2", "1.50", "0.20", start="2024-09-02T01:00:00+02:00"),
        line("NULL", "2", "3", start="2024-09-03T00:00:00Z"),
    )
    import_file(bill, service)
    assert [
        (record.event_id, record.service, str(record.amount), record.occurred_at) for record in stored(service, "4711")
    ] == [
        ("id-1", "Object Storage", "0.3", datetime(2024, 9, 1, 22, 30, tzinfo=UTC)),
        ("id-2", "Object Storage", "0.3", datetime(2024, 9, 1, 23, 0, tzinfo=UTC)),
        (None, "Object Storage", "6", datetime(2024, 9, 3, tzinfo=UTC)),
    ]


@pytest.mark.parametrize("size", ["1", "10000"])
def test_lines_that_repeat_others_are_stored_once_and_the_totals_say_so(
    service: Service, tmp_path: Path, size: str
) -> None:
    rows = [line("id-1", "2", "0.5"), line("id-1", "2.0", "0.50"), line("", "4", "1"), line("NULL", "4", "1")]
    bill = write_bill(tmp_path / "bill.csv", *rows)
    for outcome in ("recorded", "replayed"):
        result = import_file(bill, service, "--batch-size", size, code=3)
        assert result.lines == {"lines read": 4, outcome: 2, "duplicate": 2}
        assert result.totals == ("10", "5")
        assert "duplicates of other lines: 2. Not billed: 5 (50.00 %)." in result.words
        assert "Of these 1 have no event id" in result.words
        assert len(stored(service, "4711")) == 2


def test_lines_that_repeat_an_event_are_no_fault(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "2", "0.5"), line("id-1", "2.0", "0.50"))
    result = import_file(bill, service, code=0)
    assert result.lines == {"lines read": 2, "recorded": 1, "duplicate": 1}
    assert "no event id" not in result.words


@pytest.mark.parametrize("size", ["1", "10000"])
def test_without_event_ids_it_shows_what_the_plain_rule_would_lose_and_records_nothing(
    service: Service, tmp_path: Path, size: str
) -> None:
    rows = [line("id-1", "1", "0.1"), line("id-2", "1", "0.1"), line("id-3", "1.0", "0.1"), line("id-4", "2", "0.1")]
    bill = write_bill(tmp_path / "bill.csv", *rows)
    for _ in range(2):  # nothing is recorded, so the second time is as the first
        plain = import_file(bill, service, "--without-event-ids", "--batch-size", size, code=3)
        assert plain.lines == {"lines read": 4, "recorded": 2, "duplicate": 2}
        assert plain.totals == ("0.5", "0.3")
        assert "duplicates of other lines: 2. Not billed: 0.2 (40.00 %)." in plain.words
        assert "nothing was recorded" in plain.words
    assert customers(service) == []
    assert list(tmp_path.iterdir()) == [bill]


def test_columns_become_dimensions(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("1", "1", "1", tags="blue"), line("2", "-1", "1"))
    assert import_file(bill, service, "--dimension", "tags=Tags").lines == {"lines read": 2, "recorded": 2}
    assert [(str(r.units_consumed), r.dimensions) for r in stored(service, "4711")] in (
        [("1", {"tags": "blue"}), ("-1", {})],
        [("-1", {}), ("1", {"tags": "blue"})],
    )
    done = billing("import", str(bill), "--dimension", "region=Region", BILLING_BASE_URL=service.url)
    assert "its first line does not name Region" in failure(done, 1)


def test_each_bad_line_is_listed_with_its_number_and_reason(service: Service, tmp_path: Path) -> None:
    bill = tmp_path / "bill.csv"
    start = b"2024-09-01 10:00:00"
    lines = [
        ",".join(HEADER).encode(),
        b"id-1,c1,Acme,Storage,1,1," + start + b',"a tag\nof two lines"',  # 2 and 3
        b"id-2,c1,Acme,Storage",  # 4
        b"id-3,c1,Acme,Stor\xe9,1,1," + start + b",",
        b"id-4,c1,Acme,Sto\x00rage,1,1," + start + b",",
        b"id-5,c1,Acme,Storage,1,1,2024-13-01,",
        b"id-6,c1,Acme,Storage,1,1,2999-01-01,",
        b"",  # 9: no line of the bill
        b"id-7,c1,Acme,Storage,1.0000000000000000001,-1," + start + b",",  # 10
        b'id-8,c1,Acme,"Sto"rage,1,1,' + start + b",",
        b"id-9," + b"c" * 129 + b",Acme,Storage,1,1," + start + b",",
        b"id-1,c1,Acme,Storage,2,1," + start + b",",  # 13
        b"id-10,c1,Acme,NULL,1,1," + start + b",",
        b"id-11,c1,Acme,Storage,5,1," + start + b",caf\xe9 in a column that does not matter",
        b"id-12,c1,Acme,Storage,1,1," + start + b"," + b"x" * 2_000_000,  # 16
        b"id-13,c1,Acme,Storage,1,1," + start + b',"never closed',
    ]
    bill.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    result = import_file(bill, service, "--batch-size", "2", code=1)
    assert result.lines == {"lines read": 14, "recorded": 2, "rejected": 12}
    assert result.totals == ("6", "6")
    reasons = {
        "4": "it has 4 fields, the first line 8",
        "5": "/service: is not valid UTF-8",
        "6": "/service: must not hold control characters",
        "7": "ChargePeriodStart: month must be in 1..12",
        "8": "/occurredAt: must be at most 5 minutes ahead",
        "10": "/unitsConsumed: must have at most 18 digits after the point; /pricePerUnit: must not be negative",
        "11": "it is not CSV",
        "12": "/id: Expected `str` of length <= 128",
        "13": "unitsConsumed: recorded 1, submitted 2.",
        "14": "it has no ServiceName",
        "16": "it is longer than 1048576 characters",
        "17": "it is not CSV",
    }
    rejected = rejects_of(bill)
    assert [number for number, _ in rejected] == list(reasons)
    for number, reason in rejected:
        assert reasons[number] in reason


def test_corrected_rejects_can_be_imported_in_their_turn(service: Service, tmp_path: Path) -> None:
    import_file(write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"), line("id-2", "3", "-1")), service, code=1)
    rejects = tmp_path / "bill.rejected.csv"
    rejects.write_text(rejects.read_text("utf-8").replace("-1", "1"), "utf-8")
    assert import_file(rejects, service).lines == {"lines read": 1, "recorded": 1}
    assert exact_total((str(r.units_consumed), "1") for r in stored(service, "4711")) == "4"


def test_a_file_of_rejects_goes_when_there_are_none_any_more(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "many", "1"))
    assert "there is nothing that can be" in import_file(bill, service, code=1).words
    assert [number for number, _ in rejects_of(bill)] == ["2"]
    write_bill(bill, line("id-1", "1", "1"))
    import_file(bill, service)
    assert [path.name for path in tmp_path.iterdir()] == ["bill.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not name SubAccountId, ServiceName, ConsumedQuantity, ListUnitPrice, ChargePeriodStart"),
        (b"SubAccountId,ServiceName,ConsumedQuantity,ChargePeriodStart\n1,2,3,4\n", "does not name ListUnitPrice"),
        (b"x" * (1 << 25), "its first line cannot be read: it is longer than 1048576 characters"),
    ],
    ids=["empty", "a column missing", "one endless line"],
)
def test_what_is_not_a_bill_is_refused_in_a_sentence(
    service: Service, tmp_path: Path, content: bytes, words: str
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_bytes(content)
    assert words in failure(billing("import", bill, "--format", "focus", BILLING_BASE_URL=service.url), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["bill.csv"]


def test_customers_are_made_unless_told_not_to(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"))
    refused = import_file(bill, service, "--no-create-customers", code=1)
    assert refused.lines == {"lines read": 1, "rejected": 1}
    assert "Customers that are not on the server: 1 (4711)." in refused.words
    assert customers(service) == []
    import_file(bill, service)
    assert customers(service) == ["4711"]


def test_a_dry_run_names_what_is_missing_and_writes_nothing_on_the_server(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"), line("id-2", "2", "1"), line("id-3", "1", "-1"))
    dry = import_file(bill, service, "--dry-run", code=1)
    assert dry.lines == {"lines read": 3, "missing": 2, "rejected": 1}
    assert "Customers that are not on the server: 1 (4711)." in dry.words
    assert customers(service) == []
    import_file(write_bill(tmp_path / "part.csv", line("id-1", "1", "1")), service)
    write_bill(bill, line("id-1", "1", "1"), line("id-2", "2", "1"))

    dry = import_file(bill, service, "--dry-run", code=7)
    assert dry.lines == {"lines read": 2, "missing": 1, "duplicate": 1}
    assert left_of(bill, "missing") == [("3", "it is not on the server")]
    missing = tmp_path / "bill.missing.csv"
    assert str(missing) in dry.words
    assert import_file(missing, service).lines == {"lines read": 1, "recorded": 1}

    dry = import_file(bill, service, "--dry-run", code=0)
    assert dry.lines == {"lines read": 2, "duplicate": 2}
    assert "Nothing is missing" in dry.words
    assert not missing.exists()


@pytest.mark.skipif(not FOCUS_SAMPLE.exists(), reason="the FOCUS sample is not here")
def test_the_focus_sample(service: Service, tmp_path: Path) -> None:
    bill = tmp_path / "focus_sample.csv"
    bill.write_bytes(FOCUS_SAMPLE.read_bytes())
    with bill.open(encoding="utf-8", newline="") as file:
        taken = [
            (row["ConsumedQuantity"], row["ListUnitPrice"])
            for row in csv.DictReader(file)
            if row["ConsumedQuantity"] != "NULL"
        ]
    total = exact_total(taken)

    by_region = ("--dimension", "region=RegionId")
    with_ids = import_file(bill, service, *by_region, code=1)
    assert with_ids.lines == {"lines read": 1000, "recorded": 999, "rejected": 1}
    assert with_ids.totals == (total, total)
    assert [reason for _, reason in rejects_of(bill)] == ["it has no ConsumedQuantity, ListUnitPrice"]

    plain = import_file(bill, service, "--without-event-ids", code=1)
    assert plain.lines == {"lines read": 1000, "recorded": 896, "duplicate": 103, "rejected": 1}
    assert "duplicates of other lines: 103. Not billed: 7.6350860841162 (33.19 %)." in plain.words
    assert exact_total((str(r.amount), "1") for c in customers(service) for r in stored(service, c)) == total

    again = import_file(bill, service, *by_region, code=1)
    assert again.lines == {"lines read": 1000, "replayed": 999, "rejected": 1}
    assert again.totals == with_ids.totals
