"""`billing statement show`"""

import json

from tests.calls import usage
from tests.cli import billing, failure, given_customer, given_usage
from tests.services import Service


def test_a_month_as_it_stands(service: Service) -> None:
    given_customer(service)
    of = ("--customer", "acme", "--month", "2026-10", "--base-url", service.url)
    given_usage(service, usage(eventId="a", occurredAt="2026-10-01T00:00:00Z", unitsConsumed="1512905.5"))
    first = json.loads(billing("statement", "show", *of, "--json").stdout)
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
    assert "voided         1 records of 0.03, in no line" in said
    assert f"changed since  {first['digest']}: to settle 0.01" in said


def test_a_customer_that_is_not_there(service: Service) -> None:
    options = ("--customer", "nobody", "--month", "2026-10", "--base-url", service.url)
    assert "nobody" in failure(billing("statement", "show", *options), 1)
