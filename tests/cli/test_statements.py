"""`billing statement`"""

import json
from pathlib import Path

from tests.calls import usage
from tests.cli import billing, failure, given_customer, given_usage
from tests.databases import execute, run
from tests.services import Service


def test_a_month_as_it_stands(service: Service) -> None:
    given_customer(service)
    of = ("--customer", "acme", "--month", "2026-10", "--base-url", service.url)
    given_usage(service, usage(eventId="a", occurredAt="2026-10-01T00:00:00Z", unitsConsumed="1512905.5"))
    first = json.loads(billing("statement", "issue", *of, "--json").stdout)
    (wrong,) = given_usage(service, usage(eventId="b", occurredAt="2026-10-02T00:00:00Z"))
    billing("usage", "void", wrong["requestId"], *of[:2], *of[4:], "--reason", "r")
    given_usage(service, usage(eventId="c", occurredAt="2026-10-03T00:00:00Z", unitsConsumed="2", pricePerUnit="0.005"))

    lines = billing("statement", "show", *of, "--since", first["digest"]).stdout.splitlines()
    assert lines[0] == "Acme (acme), 2026-10, UTC"
    assert [line.split() for line in lines[1:5]] == [
        ["service", "records", "units", "price", "amount", "(USD)"],
        ["storage", "1", "2", "0.005", "0.01"],
        ["storage", "1", "1512905.5", "0.02", "30258.11"],
        ["total", "2", "30258.12"],
    ]
    said = "\n".join(lines[5:])
    assert "to pay         30258.12 USD" in said
    assert "status         provisional; number 1 was issued before" in said
    assert "voided         1 records of 0.03, in no line" in said
    assert f"changed since  {first['digest']}: to settle 0.01" in said


def test_a_customer_that_is_not_there(service: Service) -> None:
    options = ("--customer", "nobody", "--month", "2026-10", "--base-url", service.url)
    assert "nobody" in failure(billing("statement", "show", *options), 1)


def test_a_month_is_issued_for_all_and_listed(service: Service) -> None:
    of = ("--month", "2026-10", "--base-url", service.url)
    for customer in ("acme", "other"):
        given_customer(service, customer)
        given_usage(service, usage(customerId=customer, eventId="a", occurredAt="2026-10-01T00:00:00Z"))
    said = billing("statement", "issue", *of).stdout.splitlines()
    assert said == ["acme: number 1, 0.03", "other: number 1, 0.03", "2 issued, 0 unchanged since they were issued"]
    assert "0 issued, 2 unchanged" in billing("statement", "issue", *of).stdout
    given_usage(service, usage(eventId="b", occurredAt="2026-10-02T00:00:00Z"))
    rows = [line.split() for line in billing("statement", "list", *of).stdout.splitlines()[1:]]
    assert rows == [["acme", "issued", "1", "1", "0.03", "0.03"], ["other", "issued", "1", "1", "0.03"]]
    listed = billing("statement", "list", "--customer", "acme", *of[2:], "--json").stdout.splitlines()
    assert [json.loads(line)["number"] for line in listed] == [1]
    assert "either --customer or --month" in billing("statement", "list", *of[2:]).stderr


def test_a_customer_whose_statement_fails_is_named_and_the_others_are_issued(service: Service) -> None:
    of = ("--month", "2026-10", "--base-url", service.url)
    for customer in ("acme", "other"):
        given_customer(service, customer)
        given_usage(service, usage(customerId=customer, eventId="a", occurredAt="2026-10-01T00:00:00Z"))
        billing("statement", "issue", "--customer", customer, *of)
        given_usage(service, usage(customerId=customer, eventId="b", occurredAt="2026-10-01T00:00:00Z"))
    url, change = service.settings.database_url or "", "UPDATE usage_records SET price_per_unit = 7"
    run(execute(url, f"{change} WHERE customer_id = 'acme' AND event_id = 'a'", "UPDATE usage_rollups SET voided = 1"))
    done = billing("statement", "issue", *of)
    assert done.returncode == 1
    assert done.stdout == "other: number 2, 0.06\n1 issued, 0 unchanged since they were issued, 1 failed\n"
    assert "acme: not issued: records_changed: " in done.stderr
    assert "the statements of some customers could not be issued" in done.stderr


def test_a_statement_is_checked_without_the_service(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    given_usage(service, *(usage(eventId=str(n), occurredAt="2026-10-01T00:00:00Z") for n in range(5)))
    of = ("--customer", "acme", "--month", "2026-10", "--base-url", service.url)
    statement, export, keys = (tmp_path / name for name in ("statement.json", "usage.ndjson", "keys.json"))
    statement.write_text(billing("statement", "issue", *of, "--json").stdout)
    given_usage(service, usage(eventId="late", occurredAt="2026-10-01T00:00:00Z"))
    billing("export", *of[:2], *of[4:], "-o", str(export))
    keys.write_text('{"keys": []}')
    done = billing("statement", "verify", str(statement), "--export", str(export))
    assert done.returncode == 0, done.stderr
    assert "records    5 of the export count" in done.stdout
    assert "signature  none: the service had no key" in done.stdout
    export.write_text(export.read_text().replace('"pricePerUnit":"0.02"', '"pricePerUnit":"0.03"'))
    done = billing("statement", "verify", str(statement), "--export", str(export))
    assert done.returncode == 1
    assert "service 'storage' at 0.03: statement nothing; export 5 records of 7.5 units" in done.stdout
    statement.write_text(statement.read_text().replace('"0.15"', '"0.10"'))
    checked = billing("statement", "verify", str(statement), "--keys", str(keys), "--json")
    faults = json.loads(checked.stdout)["faults"]
    assert "there is no signature" in faults[0]
    assert any("is not 0.10" in fault for fault in faults)
    assert "usage.ndjson is not what it must be" in failure(billing("statement", "verify", str(export)), 2)
    done = billing("statement", "verify", str(statement), "--export", str(keys))
    assert "keys.json is not what it must be" in failure(done, 2)
