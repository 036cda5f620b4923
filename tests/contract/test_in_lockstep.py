"""Any calls in any order: the service and the fake one answer each alike, but for the time of day."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_client.contract.identity import new_customer_id
from billing_client.testing import FakeBillingServer
from tests.calls import Answer, key, send
from tests.databases import run
from tests.services import Service
from tests.statements import fetch

pytestmark = pytest.mark.service_alone  # the fake is started beside it

MANY = 50
INSTANTS = [
    "2024-02-29T23:59:59.999999Z",
    "2024-03-01T00:00:00Z",
    "2024-03-01T05:30:00+05:30",
    "2024-03-31T00:59:00Z",
    "2024-03-31T01:01:00Z",
    "2024-10-27T00:30:00Z",
    "2024-10-27T01:30:00Z",
]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "Mars/Olympus"]
CUSTOMERS = st.sampled_from(["a", "a", "a", "b", "c/d", "nobody"])
KEYS = st.sampled_from([None, "first", "second"]).map(lambda name: key(name) if name else {})


class Seen(NamedTuple):
    """What the answers so far have told, to be asked about; `prefix` makes this example's customers its own."""

    prefix: str
    records: list[tuple[str, str]]

    def customer(self, name: str) -> str:
        return f"{self.prefix} {name}"


class Call(NamedTuple):
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


Step = Callable[[Seen], Call]
REPORTS = st.fixed_dictionaries(
    {
        "customerId": CUSTOMERS,
        "service": st.sampled_from(["compute", "compute", "é"]),
        "unitsConsumed": st.sampled_from(["1", "1.0", 1, "2.50", 0, "9" * 38, "1e-18"]),
        "pricePerUnit": st.sampled_from(["0.02", "2e-2", "0.02", "0.005"]),
        "occurredAt": st.sampled_from(INSTANTS),
    },
    optional={"eventId": st.sampled_from(["1", "2", "3"])},
)
FAULTS = st.fixed_dictionaries(
    {},
    optional={
        "customerId": st.sampled_from(["", 7, "x" * 129, None]),
        "service": st.sampled_from(["", "a\nb", None]),
        "unitsConsumed": st.sampled_from([-1, "x", "1e39", True, None]),
        "eventId": st.sampled_from(["", [], "\x7f"]),
        "occurredAt": st.sampled_from(["yesterday", "2024-01-01T00:00:00", "9999-01-01T00:00:00Z", None]),
        "extra": st.just(1),
    },
)
ANY_REPORTS = st.one_of(REPORTS, REPORTS, REPORTS, st.builds(lambda report, faults: report | faults, REPORTS, FAULTS))


def of_customer(seen: Seen, name: str, tail: str = "", **query: str | None) -> str:
    """An address below a customer's."""
    given = {name: value for name, value in query.items() if value is not None}
    path = f"/customers/{quote(seen.customer(name), safe='')}{tail}"
    return f"{path}?{urlencode(given)}" if given else path


def named(seen: Seen, report: dict[str, Any]) -> dict[str, Any]:
    """A report whose customer, where it is one, is this example's."""
    id_ = report.get("customerId")
    return report | ({"customerId": seen.customer(id_)} if id_ and isinstance(id_, str) and len(id_) < 9 else {})


@st.composite
def recordings(draw: st.DrawFn) -> Step:
    report, headers = draw(ANY_REPORTS), draw(KEYS)
    return lambda seen: Call("POST", "/usage", named(seen, report), headers)


@st.composite
def batches(draw: st.DrawFn) -> Step:
    some, headers = draw(st.lists(ANY_REPORTS, min_size=1, max_size=5)), draw(KEYS)
    reports = draw(st.lists(st.sampled_from(some), max_size=8))  # with repeats
    path = draw(st.sampled_from(["/usage/batch", "/usage/batch", "/usage/batch?dryRun=true"]))
    return lambda seen: Call("POST", path, {"records": [named(seen, report) for report in reports]}, headers)


@st.composite
def customer_calls(draw: st.DrawFn) -> Step:
    name, new, headers = draw(CUSTOMERS), draw(st.sampled_from(["Acme", "Other", ""])), draw(KEYS)
    match draw(st.sampled_from(["POST", "PATCH", "GET"])):
        case "POST":
            return lambda seen: Call("POST", "/customers", {"id": seen.customer(name), "name": new}, headers)
        case "PATCH":
            return lambda seen: Call("PATCH", of_customer(seen, name), {"name": new})
    return lambda seen: Call("GET", of_customer(seen, name))


@st.composite
def record_calls(draw: st.DrawFn) -> Step:
    """Reads of one record, and voids."""
    other, number = draw(st.sampled_from([None, None, None, None, "b", "nobody"])), draw(st.integers(0, MANY))
    body = draw(st.sampled_from([{"reason": "wrong"}, {"reason": "twice", "voidedFor": "ann"}, None, {}]))

    def step(seen: Seen) -> Call:
        records = [*seen.records, (seen.customer("a"), "0" * 64)]
        customer_id, request_id = records[number % len(records)]
        path = f"/customers/{quote(seen.customer(other) if other else customer_id, safe='')}/usage/{request_id}"
        return Call("GET", path) if body is None else Call("POST", f"{path}/void", body)

    return step


SPANS = st.fixed_dictionaries(
    {}, optional={"from": st.sampled_from([*INSTANTS, "soon"]), "to": st.sampled_from(INSTANTS)}
)


@st.composite
def lists(draw: st.DrawFn) -> Step:
    name, span, service = draw(CUSTOMERS), draw(SPANS), draw(st.sampled_from([None, None, "compute", ""]))
    limit = draw(st.sampled_from([None, "1", "2", "3", "0"]))
    return lambda seen: Call("GET", of_customer(seen, name, "/usage", limit=limit, service=service, **span))


@st.composite
def summaries(draw: st.DrawFn) -> Step:
    name, span, zone = draw(CUSTOMERS), draw(SPANS), draw(st.sampled_from(ZONES))
    members = ",".join(draw(st.lists(st.sampled_from(["service", "hour", "day", "month"]), max_size=3)))
    asked = {"timezone": zone, "groupBy": members, "limit": draw(st.sampled_from([None, None, "1", "3"]))} | span
    return lambda seen: Call("GET", of_customer(seen, name, "/summary", **asked))


READS = st.one_of(customer_calls(), lists(), summaries())
STEPS = st.one_of(recordings(), batches(), record_calls(), record_calls(), READS)
GIVEN_USAGE = st.lists(REPORTS, min_size=4, max_size=8).map(
    lambda reports: (
        lambda seen: Call("POST", "/usage/batch", {"records": [named(seen, r) for r in reports]}, key("first"))
    )
)


def whole_ledger(seen: Seen) -> Iterator[Call]:
    """Reads of all there is."""
    for name in ("a", "b"):
        yield Call("GET", of_customer(seen, name, "/usage", limit="2"))
        for members, zone in (
            ("service,hour", "Europe/Berlin"),
            ("month", "Asia/Kathmandu"),
            ("day", "UTC"),
            ("", "UTC"),
        ):
            yield Call("GET", of_customer(seen, name, "/summary", groupBy=members, timezone=zone))


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeBillingServer]:
    with FakeBillingServer() as server:
        yield server


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_usage=GIVEN_USAGE, steps=st.lists(STEPS, min_size=20, max_size=40))
def test_both_answer_alike(
    shared_service: Service, fake: FakeBillingServer, given_usage: Step, steps: Sequence[Step]
) -> None:
    run(compare(shared_service.url, fake.url, [given_usage, *steps]))


async def compare(service_url: str, fake_url: str, steps: Sequence[Step]) -> None:
    async with aiohttp.ClientSession(service_url) as real, aiohttp.ClientSession(fake_url) as fake:
        seen = Seen(new_customer_id(), [])
        for name in ("a", "b", "c/d"):
            await ask_both(
                real, fake, seen, Call("POST", "/customers", {"id": seen.customer(name), "name": "Acme"}, key("first"))
            )
        for number, step in enumerate(steps):
            await ask_both(real, fake, seen, step(seen))
            if number in (0, len(steps) - 1):
                for call in whole_ledger(seen):
                    await ask_both(real, fake, seen, call)
        for name in ("a", "b", "c/d", "nobody"):
            path = f"/usage/export?{urlencode({'customerId': seen.customer(name)})}"
            assert await lines(real, path) == await lines(fake, path)


async def ask_both(real: aiohttp.ClientSession, fake: aiohttp.ClientSession, seen: Seen, call: Call) -> None:
    expected, answers = [[answer async for answer in pages(http, call)] for http in (real, fake)]
    assert [told(answer) for answer in expected] == [told(answer) for answer in answers], call
    for answer in expected:
        note(seen, answer.body)


async def lines(http: aiohttp.ClientSession, path: str) -> tuple[int, list[Any]]:
    """The status and the lines of an answer in NDJSON."""
    page = await fetch(http, path)
    return page.status, [timeless(json.loads(line)) for line in page.text.splitlines()]


async def answer(http: aiohttp.ClientSession, call: Call) -> Answer:
    return await send(http, call.method, call.path, call.body, call.headers)


async def pages(http: aiohttp.ClientSession, call: Call) -> Any:
    """The answer, and where it is the first page of a list, those to the pages that follow."""
    first = page = await answer(http, call)
    yield first
    while isinstance(page.body, dict) and page.body.get("nextCursor"):
        page = await answer(http, call._replace(path=f"{call.path}&cursor={page.body['nextCursor']}"))
        yield page


def note(seen: Seen, body: Any) -> None:
    """Keep the records that an answer tells of."""
    match body:
        case {"customerId": str(customer_id), "requestId": str(request_id)}:
            seen.records.extend({(customer_id, request_id)} - set(seen.records))
        case dict() | list():
            for value in body.values() if isinstance(body, dict) else body:
                note(seen, value)


def told(answer: Answer) -> Any:
    """An answer less what no two servers tell alike."""
    headers = {name: answer.headers.get(name) for name in ("Content-Type", "Location", "Idempotent-Replayed")}
    return answer.status, headers, timeless(answer.body)


def timeless(value: Any) -> Any:
    """JSON with "now" for each time of the last hour, and cursors only as there or not."""
    match value:
        case dict():
            return {n: v is not None if n == "nextCursor" else timeless(v) for n, v in value.items()}
        case list():
            return [timeless(item) for item in value]
        case str() if "T" in value and value[:4].isdecimal():
            try:
                recent = datetime.fromisoformat(value) > datetime.now(UTC) - timedelta(hours=1)
            except (ValueError, TypeError):
                return value
            return "now" if recent else value
    return value
