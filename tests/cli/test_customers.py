"""`billing customers`"""

import json

from tests.cli import billing, billing_beside, failure
from tests.client.misbehaving import disconnect, misbehaving
from tests.services import Service


def test_customers_are_added_renamed_and_listed(service: Service) -> None:
    url = ("--base-url", service.url)
    assert billing("customers", "add", "Acme", "--id", "acme", *url).stdout == "acme: Acme\n"
    beta = json.loads(billing("customers", "add", "Beta", "--json", *url).stdout)
    assert beta["id"].startswith("cus_")
    assert billing("customers", "rename", "acme", "Acme Ltd", *url).stdout == "acme: Acme Ltd\n"
    listed = billing("customers", "list", *url)
    assert (listed.returncode, listed.stderr) == (0, "")
    heading, *rows = listed.stdout.splitlines()
    assert heading.split() == ["id", "name", "created"]
    assert rows[0].split()[:3] == ["acme", "Acme", "Ltd"]
    as_json = [json.loads(line) for line in billing("customers", "list", "--json", *url).stdout.splitlines()]
    assert [each["name"] for each in as_json] == ["Acme Ltd", "Beta"]


def test_what_is_refused(service: Service) -> None:
    url = ("--base-url", service.url)
    billing("customers", "add", "Acme", "--id", "acme", *url)
    assert "acme" in failure(billing("customers", "add", "Acme", "--id", "acme", *url), 1)
    assert "nobody" in failure(billing("customers", "rename", "nobody", "Nobody", *url), 1)


async def test_an_answer_that_is_lost_says_how_to_go_on() -> None:
    async with misbehaving(*[disconnect] * 50) as server:
        url = ("--base-url", server.url, "--timeout", "0.3")
        said = failure(await billing_beside("customers", "add", "Acme", *url), 6)
        assert "Run it again with --id cus_" in said
        said = failure(await billing_beside("customers", "rename", "acme", "Acme Ltd", *url), 6)
        assert "a second time changes nothing" in said
