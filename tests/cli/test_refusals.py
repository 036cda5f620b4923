"""`billing refusals`"""

import json
import time

from tests.calls import exchange, json_request, usage
from tests.cli import billing, failure, given_customer, given_usage
from tests.services import Service


def given_refusals(service: Service) -> None:
    given_customer(service)
    given_usage(service, usage(eventId="1"))
    records = [usage(eventId="1", unitsConsumed="2"), usage(eventId="2", service=""), usage(customerId="nobody")]
    exchange(service, json_request("/usage/batch", json.dumps({"records": records}).encode())).require(200)
    deadline = time.monotonic() + 60
    while billing("refusals", "--base-url", service.url, "--json").stdout.count("\n") < len(records):
        assert time.monotonic() < deadline


def test_what_was_refused_and_why(service: Service) -> None:
    given_refusals(service)
    done = billing("refusals", "--base-url", service.url)
    assert (done.returncode, done.stderr) == (0, "")
    heading, unknown, invalid, conflict = done.stdout.splitlines()
    assert heading.split("  ")[0] == "refused at"
    assert unknown.split()[1:] == ["customer_not_found", "nobody", "customer", "not", "found"]
    assert invalid.split()[1:5] == ["validation_error", "acme", "2", "/service:"]
    assert conflict.split()[1:4] == ["event_id_conflict", "acme", "1"]
    assert conflict.strip().endswith("unitsConsumed: 2, recorded is 1.5")
    for filters, count in (
        (("--customer", "acme"), 2),
        (("--code", "customer_not_found"), 1),
        (("--limit", "1"), 1),
        (("--event-id", "1", "--from", "2020-01-01"), 1),
        (("--to", "2020-01-01"), 0),
        (("--key", "bk_0123456789abcdef"), 0),
    ):
        done = billing("refusals", "--base-url", service.url, "--json", *filters)
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == count, filters
    assert "bk_ and 16" in failure(billing("refusals", "--base-url", service.url, "--key", "secret"), 1)
