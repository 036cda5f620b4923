"""`billing summary`"""

import json
from typing import Any

from billing_service.database.pool import Connection
from tests.calls import exchange, request_head, usage
from tests.cli import billing, billing_beside, failure, given_customer, given_usage
from tests.ledgers import given_rollups
from tests.services import Service

LONG = "9" * 38


def given_ledger(service: Service) -> None:
    given_customer(service)
    given_customer(service, "beta")
    given_usage(
        service,
        usage(unitsConsumed="1.5", occurredAt="2026-10-31T23:30:00Z"),
        usage(unitsConsumed="2", service="compute", occurredAt="2026-11-01T00:30:00Z"),
        usage(unitsConsumed=LONG, pricePerUnit="0.000000000000000001", customerId="beta", service="[red]x[/red] é"),
    )


def summary(service: Service, *arguments: str) -> list[list[str]]:
    """The cells of the table."""
    done = billing("summary", "--base-url", service.url, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def as_json(service: Service, *arguments: str) -> list[Any]:
    done = billing("summary", "--base-url", service.url, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_one_customer(service: Service) -> None:
    given_ledger(service)
    assert summary(service, "--customer", "acme") == [
        ["records", "units", "amount", "(USD)"],
        ["total", "2", "-", "0.07"],
    ]
    assert summary(service, "--customer", "acme", "--group-by", "day,service", "--timezone", "Europe/Berlin")[1:] == [
        ["2026-11-01", "compute", "1", "2", "0.04"],
        ["2026-11-01", "storage", "1", "1.5", "0.03"],
        ["total", "2", "-", "0.07"],
    ]


def test_credits_stand_apart(service: Service) -> None:
    given_ledger(service)
    given_usage(service, usage(unitsConsumed="-0.5", pricePerUnit="0.1"), usage(unitsConsumed="-1", service="other"))
    assert summary(service, "--customer", "acme", "--group-by", "service") == [
        ["service", "records", "units", "usage", "credits", "amount", "(USD)"],
        ["compute", "1", "2", "0.04", "0", "0.04"],
        ["other", "1", "-1", "0", "-0.02", "-0.02"],
        ["storage", "2", "1", "0.03", "-0.05", "-0.02"],
        ["total", "4", "-", "0.07", "-0.07", "0"],
    ]
    amount = f"{LONG[:20]}.{LONG[20:]}"
    assert summary(service) == [
        ["customer", "records", "units", "usage", "credits", "amount"],
        ["acme", "4", "-", "0.07", "-0.07", "0"],
        ["beta", "1", LONG, amount, "0", amount],
        ["total", "5", "-", "100000000000000000000.069999999999999999", "-0.07", amount],
    ]


def test_each_customer_and_all_of_them_exact_to_the_last_digit(service: Service) -> None:
    given_ledger(service)
    amount = f"{LONG[:20]}.{LONG[20:]}"
    assert summary(service) == [
        ["customer", "records", "units", "amount"],
        ["acme", "2", "-", "0.07"],
        ["beta", "1", LONG, amount],
        ["total", "3", "-", "100000000000000000000.069999999999999999"],
    ]
    assert summary(service, "--group-by", "service")[3] == ["beta", "[red]x[/red]", "é", "1", LONG, amount]


def test_a_total_has_no_needless_zeros(service: Service) -> None:
    for id_, units in (("acme", "1.25"), ("beta", "0.75")):
        given_customer(service, id_)
        given_usage(service, usage(customerId=id_, unitsConsumed=units, pricePerUnit="0.2"))
    assert summary(service)[-1] == ["total", "2", "-", "0.4"]


def test_json_is_what_the_service_says(service: Service) -> None:
    given_ledger(service)
    path = "/customers/acme/summary?groupBy=month&from=2026-10-01T00:00:00Z"
    said = exchange(service, request_head("GET", path)).require(200)
    assert as_json(service, "--customer", "acme", "--group-by", "month", "--from", "2026-10-01") == [said]
    assert as_json(service) == exchange(service, request_head("GET", "/summary")).require(200)["data"]


def test_dates_are_those_of_the_time_zone(service: Service) -> None:
    given_ledger(service)
    asked = ("--customer", "acme", "--from", "2026-11-01", "--to", "2026-11-02")
    assert summary(service, *asked)[-1] == ["total", "1", "2", "0.04"]
    assert summary(service, *asked, "--timezone", "Europe/Berlin")[-1] == ["total", "2", "-", "0.07"]
    instant = ("--from", "2026-11-01T00:00:00Z", "--timezone", "Europe/Berlin")
    assert summary(service, "--customer", "acme", *instant)[-1] == ["total", "1", "2", "0.04"]


def test_an_empty_ledger(service: Service) -> None:
    assert summary(service)[1:] == [["total", "0", "0", "0"]]
    assert as_json(service) == []


def test_a_customer_that_is_not_there(service: Service) -> None:
    done = billing("summary", "--base-url", service.url, "--customer", "nobody")
    assert "no customer 'nobody'" in failure(done, 1)


async def test_more_groups_than_fit_on_a_page(service: Service, connection: Connection) -> None:
    await given_rollups(connection, customers=1_000, services=2, days=30)
    done = await billing_beside("summary", "--base-url", service.url, "--group-by", "service,day")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (len(lines), lines[-1].split()) == (60_002, ["total", "60000", "-", "180000"])
    assert lines[1].split() == ["c0001", "service", "1", "2026-01-01", "1", "2", "3"]
    assert len({len(line) for line in lines}) == 1, "the columns are aligned"
