"""`billing usage`"""

import json

from tests.calls import usage
from tests.cli import billing, billing_beside, failure, given_customer, given_usage
from tests.client.misbehaving import disconnect, misbehaving
from tests.services import Service


def test_records_are_listed_shown_and_voided(service: Service) -> None:
    given_customer(service)
    url, of = ("--base-url", service.url), ("--customer", "acme")
    first, second, _ = given_usage(
        service,
        usage(eventId="a", occurredAt="2026-10-01T00:00:00Z", dimensions={"region": "eu"}),
        usage(eventId="b", occurredAt="2026-10-02T00:00:00Z"),
        usage(eventId="c", service="compute", occurredAt="2026-10-30T00:00:00Z"),
    )
    id_ = first["requestId"]
    shown = billing("usage", "show", id_, *of, *url).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines() if not line.startswith(("event", "request")))
    assert (lines["amount"], lines["occurred"]) == ("0.03", "2026-10-01T00:00:00+00:00")
    assert lines["dimension"].split() == ["region", "eu"]
    assert json.loads(billing("usage", "show", id_, *of, "--json", *url).stdout)["eventId"] == "a"

    voided = billing("usage", "void", id_, *of, "--reason", "measured twice", "--for", "Ada", *url)
    assert voided.stdout.endswith(": 0.03 for storage of acme: measured twice\n")
    again = json.loads(billing("usage", "void", id_, *of, "--reason", "other", "--json", *url).stdout)
    assert (again["voidReason"], again["voidedFor"]) == ("measured twice", "Ada")

    asked = ("--service", "storage", "--from", "2026-10-01", "--to", "2026-10-31")
    heading, *rows = billing("usage", "list", *of, *asked, *url).stdout.splitlines()
    assert heading.split()[:5] == ["occurred", "service", "units", "price", "amount"]
    assert [row.split()[:6] for row in rows] == [
        ["2026-10-01T00:00:00Z", "storage", "1.5", "0.02", "0.03", "a"],
        ["2026-10-02T00:00:00Z", "storage", "1.5", "0.02", "0.03", "b"],
    ]
    assert id_ in rows[0]
    assert len(rows[0].split()) == len(rows[1].split()) + 1  # when it was voided

    limited = billing("usage", "list", *of, "--limit", "2", "--json", *url)
    assert [json.loads(line)["requestId"] for line in limited.stdout.splitlines()] == [id_, second["requestId"]]
    assert "more than 2" in limited.stderr
    assert billing("usage", "list", *of, "--limit", "3", *url).stderr == ""


def test_what_is_not_there(service: Service) -> None:
    given_customer(service)
    url = ("--base-url", service.url)
    assert "nobody" in failure(billing("usage", "list", "--customer", "nobody", *url), 1)
    missing = billing("usage", "show", "0" * 64, "--customer", "acme", *url)
    assert failure(missing, 1)


async def test_an_answer_that_is_lost_says_how_to_go_on() -> None:
    async with misbehaving(*[disconnect] * 50) as server:
        options = ("--customer", "acme", "--reason", "r", "--base-url", server.url, "--timeout", "0.3")
        assert "changes nothing" in failure(await billing_beside("usage", "void", "0" * 64, *options), 6)
