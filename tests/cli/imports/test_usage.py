"""`billing import` of usage as CSV and NDJSON, the service's own export included."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from billing_service.settings import Settings
from tests.calls import exchange, json_request, request_head, usage
from tests.cli import billing, billing_process, failure, given_customer, given_usage
from tests.cli.imports.bills import (
    customers,
    import_file,
    left_of,
    read_import,
    rejects_of,
    stored,
    write_ndjson,
)
from tests.databases import Server, database
from tests.ledgers import made_up_usage
from tests.services import Service, running_service

HEADING = "customerId,service,unitsConsumed,pricePerUnit,eventId,occurredAt\n"
NASTY = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''", '"quoted", with commas', "plain", "\uff1dwide", "NULL"]


@pytest.fixture
def acme(service: Service) -> Service:
    """A service with the customer acme."""
    given_customer(service)
    return service


def test_csv_as_anyone_writes_it(acme: Service, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(
        HEADING
        + "acme,storage,1.50,0.02,e-1,2026-09-01T10:00:00+02:00\n"
        + "acme,'storage,1.5e0,.02,,\n"  # an apostrophe of theirs stays
        + 'acme,"a ""service""",0,1,e-3,2026-09-01\n'
    )
    assert import_file(file, acme, "--timezone", "UTC").lines == {"lines read": 3, "recorded": 3}
    records = {record.event_id: record for record in stored(acme, "acme")}
    assert [str(records[id_].amount) for id_ in ("e-1", None, "e-3")] == ["0.03", "0.03", "0"]
    assert records["e-1"].occurred_at.isoformat() == "2026-09-01T08:00:00+00:00"
    assert [records[id_].service for id_ in (None, "e-3")] == ["'storage", 'a "service"']


def test_ndjson_as_anyone_writes_it(acme: Service, tmp_path: Path) -> None:
    file = tmp_path / "usage.txt"
    lines = [
        '{"customerId":"acme","service":"a","unitsConsumed":0.1,"pricePerUnit":1e-18,"eventId":"e-1"}',
        "",
        '{"customerId":"acme","service":"b","unitsConsumed":"1.5","pricePerUnit":12345678901234567890.123456789}',
        '{"customerId":"acme","service":"c","unitsConsumed":1,"pricePerUnit":1,"occurredAt":"2026-01-31T23:59:59.9999999Z"}',
    ]
    file.write_text("\r\n".join(lines), "utf-8")
    assert import_file(file, acme).lines == {"lines read": 3, "recorded": 3}
    records = {record.service: record for record in stored(acme, "acme")}
    assert [f"{records[name].amount:f}" for name in "abc"] == [
        "0.0000000000000000001",
        "18518518351851851835.1851851835",
        "1",
    ]
    assert records["c"].occurred_at.isoformat() == "2026-01-31T23:59:59.999999+00:00"


def test_bad_lines_of_ndjson_are_listed_and_can_be_corrected(acme: Service, tmp_path: Path) -> None:
    good = json.dumps(usage(eventId="e-1"))
    file = tmp_path / "usage.ndjson"
    bad = {
        1: (b"{", "is not whole JSON"),
        2: (b"[1]", "Expected `object`"),
        3: (b'{"customerId":"acme"}', "/pricePerUnit: is required; /service: is required; /unitsConsumed: is required"),
        4: (good.replace("eventId", "event_id").encode(), "/event_id: is not a field"),
        5: (good.replace('"storage"', '"a","service":"b"').encode(), "/service: stands more than once"),
        6: (good.replace('"1.5"', "NaN").encode(), "invalid"),
        7: (good.replace('"0.02"', '"-1"').encode(), "/pricePerUnit: must not be negative"),
        8: (good.replace("acme", "nobody").encode(), "There is no customer 'nobody'"),
        9: (good.replace("storage", "st\\ud800rage").encode(), "JSON is malformed"),
        10: (b'{"service": "caf\xe9"}', "UTF-8"),
        11: (b'{"service": "' + b"x" * 3_000_000 + b'"}', "it is longer than 1048576 characters"),
        12: (b'{"amount":' + b"[" * 100_000, "nested too deeply"),
        13: (good.replace("storage", "s" * 201).encode(), "/service"),
        15: (good.replace("1.5", "2").encode(), "unitsConsumed: recorded 1.5, submitted 2."),
    }
    file.write_bytes(b"\n".join(bad[number][0] if number in bad else good.encode() for number in range(1, 16)) + b"\n")
    result = import_file(file, acme, "--format", "ndjson", code=1)
    assert result.lines == {"lines read": 15, "recorded": 1, "rejected": 14}
    rejected = rejects_of(file)
    assert [int(number) for number, _ in rejected] == list(bad)
    for number, reason in rejected:
        assert bad[int(number)][1] in reason, (number, reason)

    rejects = tmp_path / "usage.rejected.ndjson"
    lines = rejects.read_bytes().splitlines(keepends=True)
    (at,) = (at for at, line in enumerate(lines) if line.startswith(b'{"line":4,'))
    assert lines[at + 1] == bad[4][0] + b"\n"
    rejects.write_bytes(lines[at] + lines[at + 1].replace(b"event_id", b"eventId").replace(b"e-1", b"e-2"))
    assert import_file(rejects, acme).lines == {"lines read": 1, "recorded": 1}
    assert sorted(str(record.event_id) for record in stored(acme, "acme")) == ["e-1", "e-2"]


def test_bad_rows_of_csv_are_listed_and_can_be_corrected(acme: Service, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    rows = ["acme,storage,many,1,e-1,", "acme,,1,1,e-2,", "acme,storage,1,1,e-3,yesterday", "acme,storage,2,1,e-4,"]
    file.write_text(HEADING + "\n".join(rows))
    assert import_file(file, acme, code=1).lines == {"lines read": 4, "recorded": 1, "rejected": 3}
    assert [reason for _, reason in rejects_of(file)] == [
        "/unitsConsumed: must be a finite decimal number",
        "it has no service",
        "occurredAt: Invalid isoformat string: 'yesterday'",
    ]
    rejects = tmp_path / "usage.rejected.csv"
    text = rejects.read_text().replace(",many,", ",3,").replace("acme,,", "acme,s,").replace("yesterday", "")
    rejects.write_text(text)
    assert import_file(rejects, acme).lines == {"lines read": 3, "recorded": 3}
    assert len(stored(acme, "acme")) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n \r\n\n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"hello\nworld\n", "it is neither NDJSON, nor CSV whose first line names customerId, service"),
        (bytes(range(256)) * 64, "it is not text in UTF-8"),
        (HEADING.encode("utf-16"), "it is not text in UTF-8"),
        (HEADING.encode("utf-16-le"), "it is not text in UTF-8"),
        (b"x" * (1 << 25), "its first line cannot be read: it is longer than 1048576 characters"),
        (b"a," * (1 << 24), "its first line cannot be read: it is longer than 1048576 characters"),
        (b'"' + b"\n" * (1 << 20), "its first line cannot be read: it is not CSV (read up to line 100)"),
        (b"customerId,service,unitsConsumed\n", "it is no CSV of usage: its first line does not name pricePerUnit"),
        (HEADING.replace("eventId", "event_id").encode(), "its first line names 'event_id', but takes only customerId"),
        (HEADING.replace("eventId", "service").encode(), "its first line names 'service' more than once"),
        (
            b"SubAccountId,ServiceName,customerId\n",
            "it is no FOCUS bill: its first line does not name ConsumedQuantity",
        ),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_what_is_no_usage_at_all_is_refused_in_a_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "usage.csv"
    file.write_bytes(content)
    line = failure(billing("import", file, "--base-url", "http://127.0.0.1:1"), 1)
    assert line.startswith(f"{file}: ")
    assert words in line
    assert len(line) < 600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/usage.csv"], "No such file or directory: 'nowhere/usage.csv'"),
        (["."], "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(arguments: list[str], words: str) -> None:
    assert words in failure(billing("import", *arguments), 2)


@pytest.mark.parametrize("size", ["0", "10001", "many"])
def test_a_batch_size_that_the_service_does_not_take_is_refused(tmp_path: Path, size: str) -> None:
    refused = billing("import", tmp_path / "usage.csv", "--batch-size", size)
    assert refused.returncode == 2
    assert "--batch-size" in refused.stderr


@pytest.mark.parametrize("content", [HEADING, ""])
def test_no_lines_are_no_fault(acme: Service, content: str) -> None:
    format_ = "csv" if content else "ndjson"
    done = billing_process("import", "-", "--format", format_, given=content.encode(), BILLING_BASE_URL=acme.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "there is nothing that can be" in done.stdout


def test_json(acme: Service, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "usage.ndjson", usage(), usage(), usage(pricePerUnit=-1))
    done = billing("import", file, "--json", BILLING_BASE_URL=acme.url)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "dryRun": False,
        "read": 3,
        "recorded": 1,
        "replayed": 0,
        "duplicate": 1,
        "missing": 0,
        "rejected": 1,
        "repeated": 1,
        "lost": 1,
        "voided": 0,
        "amountRead": "0.06",
        "amountStored": "0.03",
        "missingCustomers": [],
        "missingFile": None,
        "rejectedFile": str(tmp_path / "usage.rejected.ndjson"),
    }


def test_a_dry_run_of_a_file_whose_customers_are_not_made(acme: Service, tmp_path: Path) -> None:
    given_usage(acme, usage(eventId="e-1"))
    file = write_ndjson(
        tmp_path / "usage.ndjson", *(usage(eventId=f"e-{n}") for n in (1, 2)), usage(customerId="nobody")
    )
    dry = import_file(file, acme, "--dry-run", code=1)
    assert dry.lines == {"lines read": 3, "missing": 1, "duplicate": 1, "rejected": 1}
    assert "Customers that are not on the server: 1 (nobody)." in dry.words
    assert left_of(file, "missing") == [("2", "it is not on the server")]
    dry = import_file(file, acme, "--dry-run", "--create-customers", code=7)
    assert dry.lines == {"lines read": 3, "missing": 2, "duplicate": 1}
    assert len(stored(acme, "acme")) == 1
    assert customers(acme) == ["acme"]


def test_a_dry_run_of_lines_that_are_all_rejected_does_not_say_that_nothing_is_missing(
    acme: Service, tmp_path: Path
) -> None:
    dry = import_file(write_ndjson(tmp_path / "usage.ndjson", usage(customerId="nobody")), acme, "--dry-run", code=1)
    assert dry.lines == {"lines read": 1, "rejected": 1}
    assert "The rejected lines would not be recorded" in dry.words
    assert "1 (nobody). Create them, or add --create-customers." in dry.words
    assert "agree" not in dry.words


@contextmanager
def empty_service(server: Server, template: str) -> Iterator[Service]:
    """Another service, with nothing in it."""
    with database(server, template) as name, running_service(Settings(database_url=server.url_of(name))) as other:
        yield other


def summary(service: Service) -> Any:
    return exchange(service, request_head("GET", "/summary?groupBy=service,day")).require(200)["data"]


def void(service: Service, record: Any) -> None:
    path = f"/customers/{record['customerId']}/usage/{record['requestId']}/void"
    exchange(service, json_request(path, b'{"reason": "wrong"}')).require(200)


PAIRS = {"model": "large", "formula": "=1+1", "quoted": 'a "b", c\\'}


def exported(service: Service, format_: str) -> bytes:
    done = billing("export", "--format", format_, BILLING_BASE_URL=service.url)
    assert done.returncode == 0
    return done.stdout.encode()


def identities(service: Service) -> list[tuple[Any, ...]]:
    kept = ("requestId", "customerId", "service", "unitsConsumed", "pricePerUnit", "amount", "eventId", "occurredAt")
    return [
        (*(record[name] for name in kept), record.get("dimensions"), record["voidedAt"] is None)
        for record in map(json.loads, exported(service, "ndjson").splitlines())
    ]


@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_what_was_exported_is_imported_with_the_same_ids_and_totals(
    acme: Service, database_server: Server, template_database: str, tmp_path: Path, format_: str
) -> None:
    records = given_usage(acme, *made_up_usage(299, 1), usage(), usage(service="no event id"), usage(dimensions=PAIRS))
    for id_ in NASTY:
        given_customer(acme, id_)
        given_usage(acme, usage(customerId=id_, service=id_, eventId=id_, occurredAt="2026-01-01T00:00:00.123456Z"))
    for record in records[:3]:
        void(acme, record)
    file = tmp_path / f"usage.{format_}"
    file.write_bytes(exported(acme, format_))

    with empty_service(database_server, template_database) as other:
        refused = import_file(file, other, code=1)
        assert refused.lines == {"lines read": 312, "rejected": 312}
        first = import_file(file, other, "--create-customers")
        assert first.lines == {"lines read": 312, "recorded": 312}
        assert "Voided, as they are in the file: 3" in first.words
        assert first.totals[0] == first.totals[1]
        assert identities(other) == identities(acme)
        assert summary(other) == summary(acme)
        again = import_file(file, other, "--create-customers")
        assert again.lines == {"lines read": 312, "replayed": 312}
        assert summary(other) == summary(acme)
    assert rejects_of(file) == []


def test_an_export_is_imported_through_a_pipe(acme: Service, database_server: Server, template_database: str) -> None:
    given_usage(acme, *made_up_usage(300, 1))
    with empty_service(database_server, template_database) as other:
        given = exported(acme, "ndjson")
        done = billing_process("import", "-", "--create-customers", given=given, BILLING_BASE_URL=other.url)
        assert read_import(done).lines == {"lines read": 300, "recorded": 300}
        assert summary(other) == summary(acme)


def test_what_is_voided_in_the_file_but_owed_on_the_server_is_rejected(acme: Service, tmp_path: Path) -> None:
    (record,) = given_usage(acme, usage())
    file = write_ndjson(tmp_path / "usage.ndjson", record | {"voidedAt": "2026-01-01T00:00:00Z"})
    result = import_file(file, acme, code=1)
    assert result.lines == {"lines read": 1, "rejected": 1}
    assert rejects_of(file) == [("1", "it is voided in the file, but not on the server")]
    assert stored(acme, "acme")[0].voided_at is None
    void(acme, record)
    assert import_file(file, acme).lines == {"lines read": 1, "duplicate": 1}


@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_an_export_whose_data_was_changed_is_rejected(acme: Service, tmp_path: Path, format_: str) -> None:
    given_usage(acme, usage(eventId="0012"), usage())
    file = tmp_path / f"usage.{format_}"
    file.write_bytes(exported(acme, format_).replace(b"0012", b"12"))  # as a spreadsheet does
    assert import_file(file, acme, code=1).lines == {"lines read": 2, "duplicate": 1, "rejected": 1}
    ((_, reason),) = rejects_of(file)
    assert "the requestId is that of other data" in reason


def test_the_answer_of_record_is_a_line_of_usage(acme: Service, tmp_path: Path) -> None:
    arguments = ("--customer", "acme", "--service", "s", "--units", "1", "--price", "1", "--json")
    file = tmp_path / "log.ndjson"
    file.write_text(billing("record", *arguments, BILLING_BASE_URL=acme.url).stdout)
    assert import_file(file, acme).lines == {"lines read": 1, "duplicate": 1}


def test_left_lines_go_to_the_working_folder_where_the_other_is_not_to_be_written(
    acme: Service, tmp_path: Path
) -> None:
    given = json.dumps(usage(pricePerUnit=-1)).encode()
    done = billing_process("import", "-", given=given, cwd=tmp_path, BILLING_BASE_URL=acme.url)
    assert "Their numbers and reasons: usage.rejected.ndjson" in done.stdout
    assert left_of(tmp_path / "usage", "rejected") == [("1", "/pricePerUnit: must not be negative")]


def test_an_unclosed_quote_costs_its_line_alone_and_what_is_refused_is_kept_to_the_byte(
    acme: Service, tmp_path: Path
) -> None:
    header = b"customerId,service,unitsConsumed,pricePerUnit,eventId,outcome\r\n"
    bad = {
        2: b'acme,"storage,1,1,e-1,\xff\r\n',
        4: b"acme,short\r\n",
        1_000: b'acme,storage,1,-1,e-1000,"a ""note"",\nof two lines"\n',
    }
    file = tmp_path / "usage.csv"
    lines = [bad.get(number, b"acme,storage,1,1,e-%d,\r\n" % number) for number in range(2, 1_001)]
    file.write_bytes(header + b"".join(lines))
    result = import_file(file, acme, code=1)
    assert result.lines == {"lines read": 999, "recorded": 996, "rejected": 3}
    rejected = tmp_path / "usage.rejected.csv"
    content = rejected.read_bytes()
    assert content.startswith(b"line,reason," + header)
    for number, raw in bad.items():
        assert b"," + raw in content
        assert f"\n{number},".encode() in content
    rejected.write_bytes(content.replace(b'"storage,', b"storage,").replace(b"1,-1", b"1,1").replace(b"\xff", b""))
    again = import_file(rejected, acme, code=1)
    assert again.lines == {"lines read": 3, "recorded": 2, "rejected": 1}
    left = (tmp_path / "usage.rejected.rejected.csv").read_bytes()
    assert left.startswith(b"line,reason," + header)
    assert left.endswith(b"," + bad[4])


LONG = b"x" * ((1 << 20) + 1) + "\u20ac".encode() * 400_000 + b"\xff"  # more than the longest line, twice
KEPT = {
    "ndjson": [
        b'  {"customerId": "acme",\t"service":"\xff"}  \r\n',
        b'{"note": {"n": 1.50}, "note": 2}\n',
        b'{"service": "%b"}\n' % LONG,
        b"\x00\x1b[31mno JSON\r",
        b'{"line": "7", "reason": "no note"}\n',
        b'{"unitsConsumed": -1} %b \r\n' % LONG,
    ],
    "csv": [
        b"acme,short\r\n",
        b'acme,"two\nlines",-1,1\n',
        b"acme,%b,1,1\r\n" % LONG,
        b'acme,"never closed\n',
        b'acme,"storage"x,1,1\r',
        b'acme,"two\r\nlines, %b",1,1\n' % LONG,
        b'acme,"closed"\xff,%b\n' % LONG,
    ],
}


@pytest.mark.parametrize("format_", KEPT)
def test_what_is_refused_is_kept_to_the_byte_however_long_it_is(acme: Service, tmp_path: Path, format_: str) -> None:
    sound = f"{json.dumps(usage())}\n" if format_ == "ndjson" else "acme,storage,1.5,0.02\n"
    heading = b"" if format_ == "ndjson" else b"customerId,service,unitsConsumed,pricePerUnit\n"
    file = tmp_path / f"usage.{format_}"
    file.write_bytes(heading + sound.encode() + sound.encode().join(KEPT[format_]))
    result = import_file(file, acme, "--format", format_, "--batch-size", "2", code=1)
    assert result.lines["rejected"] >= len(KEPT[format_])
    content = (tmp_path / f"usage.rejected.{format_}").read_bytes()
    at = 0
    for raw in KEPT[format_]:  # in their order, each piece of them behind a note
        for piece in raw.splitlines(keepends=True) if format_ == "csv" else [raw]:
            at = content.index(piece, at) + len(piece)
    again = import_file(tmp_path / f"usage.rejected.{format_}", acme, "--format", format_, code=1)
    assert again.lines == {"lines read": result.lines["rejected"], "rejected": result.lines["rejected"]}


def test_an_open_quote_loses_no_line(acme: Service, tmp_path: Path) -> None:
    """Of a row that cannot be read each line is read again by itself; it is imported, or it is refused and kept."""
    rows = ['acme,"open,1,1', "acme,storage,2,1", 'a "quoted" b,x,1,1', "no row", 'acme,"b,3,1', 'acme,c",4,1']
    file = tmp_path / "usage.csv"
    file.write_text("customerId,service,unitsConsumed,pricePerUnit\n" + "\n".join(rows * 40))
    result = import_file(file, acme, code=1)
    content = (tmp_path / "usage.rejected.csv").read_text()
    kept = sum(content.count(f"{row}\n") for row in set(rows))
    imported = result.lines["lines read"] - result.lines["rejected"]
    assert kept + imported == len(rows) * 40


def test_a_time_without_an_offset_needs_a_zone(acme: Service, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("customerId,service,unitsConsumed,pricePerUnit,occurredAt\nacme,storage,1,1,2026-01-01T00:30:00\n")
    assert import_file(file, acme, code=1).lines == {"lines read": 1, "rejected": 1}
    ((_, reason),) = rejects_of(file)
    assert "has no offset" in reason
    assert "--timezone" in reason
    assert import_file(file, acme, "--timezone", "Asia/Kolkata").lines == {"lines read": 1, "recorded": 1}
    assert stored(acme, "acme")[0].occurred_at.isoformat() == "2025-12-31T19:00:00+00:00"
    assert billing("import", file, "--timezone", "Nowhere").returncode == 2
