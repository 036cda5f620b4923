"""examples/import_focus.py: a cloud bill, each line once, both totals exact."""

import csv
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, Inexact, localcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from billing_client import BillingSystemClient, UsageRecord
from tests.databases import run
from tests.examples import ROOT, run_example
from tests.services import Service, free_port

SAMPLE = ROOT.parent / "shared" / "data" / "focus_sample.csv"
HEADER = [
    "Id",
    "SubAccountId",
    "SubAccountName",
    "ServiceName",
    "ConsumedQuantity",
    "ListUnitPrice",
    "ChargePeriodStart",
    "Tags",
]
_ROW = re.compile(r"[│┃] (.+?) +[│┃] (\S+) +[│┃]")


class Import(NamedTuple):
    """What an import said: its table by name, and the sentences below."""

    table: dict[str, str]
    words: str

    @property
    def lines(self) -> dict[str, int]:
        return {name: int(self.table[name]) for name in ("lines read", "recorded", "duplicate", "rejected")}

    @property
    def totals(self) -> tuple[str, str]:
        return self.table["total as read"], self.table["total as stored"]


def import_bill(bill: Path, service: Service, *options: str) -> Import:
    process = run_example("import_focus.py", bill, "--url", service.url, *options)
    assert process.returncode == 0, process.stderr
    return Import(dict(_ROW.findall(process.stdout)), process.stdout[process.stdout.rindex("┘") :])


def write_bill(bill: Path, *rows: Iterable[str]) -> Path:
    with bill.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return bill


def rejects_of(bill: Path) -> list[tuple[str, str]]:
    """The number and the reason of each rejected line."""
    with bill.with_name(f"{bill.stem}.rejected.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        return [(row["line"], row["reason"]) for row in csv.DictReader(file)]


def exact_total(lines: Iterable[tuple[str, str]]) -> str:
    """The sum of units x price, computed apart from the example."""
    with localcontext() as context:
        context.prec = 300
        context.traps[Inexact] = True
        total = sum((Decimal(units) * Decimal(price) for units, price in lines), Decimal(0))
        return f"{total.normalize():f}"


def stored(service: Service, customer_id: str) -> list[UsageRecord]:
    async def read() -> list[UsageRecord]:
        async with BillingSystemClient(base_url=service.url) as client:
            return [record async for record in client.usage(customer_id=customer_id)]

    return run(read())


def line(id_: str, quantity: str, price: str, *, start: str = "2024-09-01 10:00:00", tags: str = "NULL") -> list[str]:
    return [id_, "4711", "Acme, Inc.", "Object Storage", quantity, price, start, tags]


def test_a_second_import_records_nothing_and_both_totals_agree(service: Service, tmp_path: Path) -> None:
    taken = [
        ("0.000000145300000", "0.085"),
        ("123456789012.123456789", "0.000000000000000001"),
        ("1e3", "7"),
        ("0", "5"),
    ]
    rows = [line(f"id-{number}", *amounts, tags='{"a": "b, c"}') for number, amounts in enumerate(taken)]
    bill = write_bill(tmp_path / "bill.csv", *rows, line("id-x", "-1.5", "2"), line("id-y", "NULL", "NULL"))

    first = import_bill(bill, service)
    assert first.lines == {"lines read": 6, "recorded": 4, "duplicate": 0, "rejected": 2}
    assert first.totals == (exact_total(taken), exact_total(taken))
    assert "Both totals agree to the last digit." in first.words
    assert "Nothing was recorded" not in first.words

    second = import_bill(bill, service)
    assert second.lines == {"lines read": 6, "recorded": 0, "duplicate": 4, "rejected": 2}
    assert second.totals == first.totals
    assert "Nothing was recorded: all of it had been before." in second.words
    assert len(stored(service, "4711")) == 4


def test_what_is_stored_is_what_the_line_says(service: Service, tmp_path: Path) -> None:
    bill = write_bill(
        tmp_path / "bill.csv",
        line("id-1", "1.50", "0.20", start="2024-09-01 22:30:00"),
        line("id-2", "1.50", "0.20", start="2024-09-02T01:00:00+02:00"),
        line("NULL", "2", "3", start="2024-09-03T00:00:00Z"),
    )
    import_bill(bill, service)
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
    result = import_bill(write_bill(tmp_path / "bill.csv", *rows), service, "--batch-size", size)
    assert result.lines == {"lines read": 4, "recorded": 2, "duplicate": 2, "rejected": 0}
    assert result.totals == ("10", "5")
    assert "duplicates of other lines: 2. Not billed: 5 (50.00 %)." in result.words
    assert len(stored(service, "4711")) == 2


@pytest.mark.parametrize("size", ["1", "10000"])
def test_without_event_ids_it_shows_what_the_plain_rule_would_lose_and_records_nothing(
    service: Service, tmp_path: Path, size: str
) -> None:
    rows = [line("id-1", "1", "0.1"), line("id-2", "1", "0.1"), line("id-3", "1.0", "0.1"), line("id-4", "2", "0.1")]
    bill = write_bill(tmp_path / "bill.csv", *rows)
    for _ in range(2):  # nothing is recorded, so the second time is as the first
        plain = import_bill(bill, service, "--without-event-ids", "--batch-size", size)
        assert plain.lines == {"lines read": 4, "recorded": 2, "duplicate": 2, "rejected": 0}
        assert plain.totals == ("0.5", "0.3")
        assert "duplicates of other lines: 2. Not billed: 0.2 (40.00 %)." in plain.words
        assert "no usage was recorded" in plain.words
        assert stored(service, "4711") == []


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
        b"id-12,c1,Acme,Storage,1,1," + start + b',"never closed',  # 16
    ]
    bill.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    result = import_bill(bill, service, "--batch-size", "2")
    assert result.lines == {"lines read": 13, "recorded": 2, "duplicate": 0, "rejected": 11}
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
        "16": "it is not CSV",
    }
    rejected = rejects_of(bill)
    assert [number for number, _ in rejected] == list(reasons)
    for number, reason in rejected:
        assert reasons[number] in reason


def test_corrected_rejects_can_be_imported_in_their_turn(service: Service, tmp_path: Path) -> None:
    import_bill(write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"), line("id-2", "-3", "1")), service)
    rejects = tmp_path / "bill.rejected.csv"
    rejects.write_text(rejects.read_text("utf-8").replace("-3", "3"), "utf-8")
    assert import_bill(rejects, service).lines == {"lines read": 1, "recorded": 1, "duplicate": 0, "rejected": 0}
    assert exact_total((str(r.units_consumed), "1") for r in stored(service, "4711")) == "4"


def test_a_file_of_rejects_goes_when_there_are_none_any_more(service: Service, tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "many", "1"))
    assert "there is nothing that can be" in import_bill(bill, service).words
    assert [number for number, _ in rejects_of(bill)] == ["2"]
    write_bill(bill, line("id-1", "1", "1"))
    import_bill(bill, service)
    assert [path.name for path in tmp_path.iterdir()] == ["bill.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not name SubAccountId, ServiceName, ConsumedQuantity, ListUnitPrice, ChargePeriodStart"),
        (b"SubAccountId,ServiceName,ConsumedQuantity,ChargePeriodStart\n1,2,3,4\n", "does not name ListUnitPrice"),
        (bytes(range(256)) * 64, "not a FOCUS bill in CSV"),
        (b"x" * (1 << 25), "not a FOCUS bill in CSV: field larger than field limit"),
        (",".join(HEADER).encode("utf-16"), "not a FOCUS bill in CSV"),
    ],
    ids=["empty", "a column missing", "binary", "one endless line", "UTF-16"],
)
def test_what_is_not_a_bill_is_refused_in_a_sentence(
    service: Service, tmp_path: Path, content: bytes, words: str
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_bytes(content)
    process = run_example("import_focus.py", bill, "--url", service.url)
    assert (process.returncode, process.stdout) == (1, "")
    assert words in process.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["bill.csv"]


def test_a_file_that_cannot_be_read_is_named(service: Service, tmp_path: Path) -> None:
    missing = run_example("import_focus.py", tmp_path / "nowhere" / "bill.csv", "--url", service.url)
    folder = run_example("import_focus.py", tmp_path, "--url", service.url)
    assert (missing.returncode, folder.returncode) == (1, 1)
    assert "nowhere/bill.csv" in missing.stderr
    assert str(tmp_path) in folder.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_service_it_says_so(tmp_path: Path) -> None:
    bill = write_bill(tmp_path / "bill.csv", line("id-1", "1", "1"))
    port = free_port()
    process = run_example("import_focus.py", bill, "--url", f"http://127.0.0.1:{port}")
    assert (process.returncode, process.stdout) == (1, "")
    assert str(port) in process.stderr.splitlines()[-1]
    assert "Run it again" in process.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["bill.csv"]


@pytest.mark.parametrize("size", ["0", "10001", "many"])
def test_a_batch_size_the_service_does_not_take_is_refused(tmp_path: Path, size: str) -> None:
    process = run_example("import_focus.py", tmp_path / "bill.csv", "--batch-size", size)
    assert process.returncode == 2
    assert "--batch-size" in process.stderr


@pytest.mark.skipif(not SAMPLE.exists(), reason="the FOCUS sample is not here")
def test_the_focus_sample(service: Service, tmp_path: Path) -> None:
    bill = tmp_path / "focus_sample.csv"
    bill.write_bytes(SAMPLE.read_bytes())
    with bill.open(encoding="utf-8", newline="") as file:
        taken = [
            (row["ConsumedQuantity"], row["ListUnitPrice"])
            for row in csv.DictReader(file)
            if row["ConsumedQuantity"] != "NULL" and not row["ConsumedQuantity"].startswith("-")
        ]
    total = exact_total(taken)

    with_ids = import_bill(bill, service)
    assert with_ids.lines == {"lines read": 1000, "recorded": 987, "duplicate": 0, "rejected": 13}
    assert with_ids.totals == (total, total) == ("23.16657704939906154",) * 2
    assert len(rejects_of(bill)) == 13

    plain = import_bill(bill, service, "--without-event-ids")
    assert plain.lines == {"lines read": 1000, "recorded": 884, "duplicate": 103, "rejected": 13}
    assert "duplicates of other lines: 103. Not billed: 7.6350860841162 (32.96 %)." in plain.words

    again = import_bill(bill, service)
    assert again.lines == {"lines read": 1000, "recorded": 0, "duplicate": 987, "rejected": 13}
    assert again.totals == with_ids.totals
