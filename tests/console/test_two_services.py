"""The console behind two services of one database, as two machines or workers are: any page may come from either."""

from collections.abc import Iterator

import pytest

from tests.console.browsers import Visitor
from tests.console.conftest import Stage
from tests.services import Service, running_service

MONTH = "2026-02"
PRIVATE = [
    "/console",
    "/console/customers",
    "/console/customers/acme",
    "/console/find?q=nothing",
    "/console/refusals",
    "/console/statements",
    "/console/keys",
    f"/console/customers/acme/statement?month={MONTH}&format=html",
    f"/console/customers/acme/statement?month={MONTH}&format=csv",
    f"/console/customers/acme/statement?month={MONTH}&format=json",
    "/console/nowhere",
]


@pytest.fixture(scope="module")
def other(stage: Stage) -> Iterator[Service]:
    """A second service of the same database."""
    with running_service(stage.service.settings) as service:
        yield service


def also_at(service: Service, visitor: Visitor) -> Visitor:
    """The same browser, led to another service by the balancer between them."""
    twin = Visitor(service)
    twin.cookies = visitor.cookies
    return twin


def test_a_session_holds_at_both_and_ends_at_both(stage: Stage, other: Service) -> None:
    here = Visitor(stage.service)
    here.sign_in(stage.admin)
    there = also_at(other, here)
    page = there.get("/console/keys")
    assert (page.status, "API keys" in page.shown) == (200, True)
    cookies = dict(here.cookies)
    assert there.submit(page, "/console/sign-out").status == 303
    for visitor in (here, there):
        visitor.cookies = cookies
        assert visitor.get("/console").status == 303, "to sign in, though the browser kept its cookie"


def test_what_is_written_at_one_shows_at_the_other(stage: Stage, other: Service) -> None:
    usage = {"customerId": "acme", "service": "two", "unitsConsumed": "1", "pricePerUnit": "7", "eventId": "two/1"}
    stage.post("/usage", usage | {"occurredAt": f"{MONTH}-10T00:00:00Z"})
    here = Visitor(stage.service)
    here.sign_in(stage.admin)
    there = also_at(other, here)
    address = f"/console/statements?month={MONTH}"
    assert [row[1] for row in there.get(address).rows("Statements")[1:]] == ["provisional"]
    form = here.get(address)
    issued = there.submit(form, "/console/customers/acme/statements", month=MONTH, timezone="UTC")
    assert issued.status == 303, "the form came from the other one"
    for visitor in (here, there):
        (row,) = visitor.get(address).rows("Statements")[1:]
        assert row[1].startswith("issued no. ")
        assert row[1].endswith("not signed"), "there is no key"
    record = there.get("/console/find?q=two/1").headers["Location"]
    assert here.submit(here.get(record), f"{record}/void", reason="metered twice").status == 303
    assert "Reason metered twice" in there.get(record).shown


@pytest.mark.parametrize("path", PRIVATE)
def test_no_page_is_stored_by_a_browser_or_proxy(stage: Stage, visitor: Visitor, path: str) -> None:
    """So that neither the back button after signing out nor another reader's request brings one up."""
    assert visitor.get(path).headers["Cache-Control"] == "no-store"


@pytest.fixture(scope="module")
def visitor(stage: Stage) -> Visitor:
    visitor = Visitor(stage.service)
    visitor.sign_in(stage.admin)
    return visitor
