"""The forms of a statement: what is asked for is what comes, and no text in it is run by what shows it."""

import asyncio
import csv
import io
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from billing_client.contract.csv_cells import rearm
from billing_service.pace import Pace
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, send
from tests.services import running_service
from tests.statements import Page, fetch, issue, record, statement, void

PATH = "/customers/acme/statement"
JANUARY = f"{PATH}?month=2026-01"
AT = "2026-01-05T00:00:00Z"
NASTY = "=HYPERLINK(\"http://evil\",'x')<script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{7*7}}{%x%}"
NASTY_ID = NASTY[:128]
TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8", "html": "text/html; charset=utf-8"}


async def nasty_statement(http: aiohttp.ClientSession, format_: str) -> Page:
    """A statement in which every text wants to be run, with changes."""
    await post(http, "/customers", {"id": NASTY_ID, "name": NASTY})
    twice = await record(http, NASTY_ID, AT, customerId=NASTY_ID, service=NASTY)
    before = await issue(http, "2026-01", NASTY_ID)
    await record(http, "+1", AT, customerId=NASTY_ID, service=NASTY, unitsConsumed="2")
    await void(http, twice, reason=NASTY, by=NASTY)
    path = f"/customers/{quote(NASTY_ID, safe='')}/statement?month=2026-01&since={before['digest']}"
    return await fetch(http, f"{path}&format={format_}")


class Elements(HTMLParser):
    """What a browser would see: the tags, their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.style = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and not self.style:
            self.style = data
        self.texts.append(data.strip())


async def test_a_page_runs_nothing_and_loads_nothing(http: aiohttp.ClientSession) -> None:
    page = await nasty_statement(http, "html")
    elements = Elements(page.text)
    assert elements.tags.isdisjoint({"script", "img", "link", "iframe", "object", "a", "form", "base"})
    assert elements.attributes == {
        *("lang", "charset", "name", "content", "class", "scope", "colspan", "data-label", "data-pad")
    }
    assert elements.texts.count(NASTY) >= 6  # the name, a line, voided records, reasons, who, changes
    assert NASTY_ID in elements.texts
    assert "url(" not in elements.style
    assert "@import" not in elements.style
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    style = b64encode(sha256(elements.style.encode()).digest()).decode()
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", f"style-src 'sha256-{style}'"} <= set(policy)


async def test_a_page_says_what_the_statement_says(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await record(http, "1", AT, unitsConsumed="1234567.5", pricePerUnit="0.001", service="R\u00e9seau")
    await void(http, await record(http, "2", AT, service="compute"), "a test run", "ann")
    answer = await statement(http, "2026-01", timezone="Europe/Berlin")
    page = await fetch(http, f"{JANUARY}&timezone=Europe/Berlin&format=html")
    assert page.text.startswith('<!DOCTYPE html>\n<html lang="en">')
    texts = Elements(page.text).texts
    shown = ["Acme", "R\u00e9seau", "1,234,567.5", "0.001", "1,234.56", "75", "1,234.57"]
    shown += [
        "Provisional statement for January 2026",
        "1 Jan 2026, 00:00:00 CET",
        "1 Feb 2026, 00:00:00 CET",
        "Europe/Berlin",
        "a test run",
        "ann",
    ]
    shown += [answer["digest"], answer["voided"]["data"][0]["requestId"]]
    assert [text for text in shown if text not in texts] == []
    assert "Nothing is rounded but this total, once, half up, to 2 digits after the point." in texts
    assert "@media print" in page.text


async def test_a_page_says_whether_it_is_issued(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await record(http, "1", AT)
    page = await fetch(http, f"{JANUARY}&format=html")
    assert "provisional: not issued" in Elements(page.text).texts
    issued = await issue(http, "2026-01")
    texts = Elements((await fetch(http, f"{JANUARY}&format=html")).text).texts
    assert [text for text in ("Statement for January 2026", "Number", "1", issued["digest"]) if text not in texts] == []
    assert "provisional: not issued" not in texts
    await record(http, "2", AT, service="compute")
    texts = Elements((await fetch(http, f"{JANUARY}&format=html")).text).texts
    assert any(text.startswith("number 1, ") for text in texts)


def pdf_is_made() -> bool:
    """Whether what PDF needs is on this machine; Pango comes with the system, not with pip."""
    try:
        import weasyprint  # type: ignore[import-untyped]  # noqa: F401 - it ships no types; only whether it can be imported
    except (ImportError, OSError):
        return False
    return True


@pytest.mark.skipif(not pdf_is_made(), reason="Pango is not installed (Debian: libpangoft2-1.0-0)")
async def test_a_page_as_pdf(http: aiohttp.ClientSession) -> None:
    await nasty_statement(http, "json")
    path = f"/customers/{quote(NASTY_ID, safe='')}/statement?month=2026-01"
    for query, headers in (("&format=pdf", {}), ("", {"Accept": "application/pdf"})):
        async with http.get(URL(path + query, encoded=True), headers=headers) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "application/pdf")
            assert response.headers["Content-Disposition"] == 'inline; filename="statement-2026-01.pdf"'
            body = await response.read()
            assert body.startswith(b"%PDF-")
            assert body.rstrip().endswith(b"%%EOF")


@pytest.mark.skipif(not pdf_is_made(), reason="Pango is not installed (Debian: libpangoft2-1.0-0)")
@pytest.mark.parametrize("paper", ["A4", "letter"])
async def test_no_number_is_cut_on_paper(shared_http: aiohttp.ClientSession, customer: str, paper: str) -> None:
    from weasyprint import HTML

    most = {"service": "a service whose name is rather long", "customerId": customer}
    most |= {"unitsConsumed": "12345678901234567890.123456789012345678", "pricePerUnit": "5.000000000000000001"}
    wrong = await record(shared_http, "1", AT, **most)
    before = await issue(shared_http, "2026-01", customer)
    await record(shared_http, "2", AT, **most)
    await void(shared_http, wrong)
    path = f"/customers/{customer}/statement?month=2026-01&format=html&since={before['digest']}"
    page = (await fetch(shared_http, path)).text.replace("@page {", f"@page {{ size: {paper};")
    for printed in HTML(string=page).render().pages:
        box = printed._page_box  # nothing public tells where a text lies
        edge = box.content_box_x() + box.width
        texts = [each for each in box.descendants() if hasattr(each, "text")]
        assert texts
        assert [each.text for each in texts if each.position_x + each.width > edge + 1] == []


@pytest.mark.skipif(not pdf_is_made(), reason="Pango is not installed (Debian: libpangoft2-1.0-0)")
async def test_one_statement_is_printed_at_a_time_and_not_for_long(
    http: aiohttp.ClientSession, settings: Settings
) -> None:
    """In a process of its own, so that nobody waits for it but who asked."""
    await nasty_statement(http, "json")
    path = f"/customers/{quote(NASTY_ID, safe='')}/statement?month=2026-01&format=pdf"
    answers = await asyncio.gather(*(http.get(URL(path, encoded=True)) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 503, 503]
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status == 503)
    with running_service(settings, pace=Pace(pdf_seconds=0.001)) as service:
        async with aiohttp.ClientSession(service.url) as hasty:
            problem = (await get(hasty, path)).problem("not_acceptable")
            assert "too long to be printed" in problem["detail"]


async def test_where_no_pdf_can_be_made_the_answer_says_what_to_do(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_customer(http)
    monkeypatch.setitem(sys.modules, "weasyprint", None)  # as where the extra is not installed
    problem = (await get(http, f"{JANUARY}&format=pdf")).problem("not_acceptable")
    assert "billing-system[service,pdf]" in problem["detail"]


def table(page: Page) -> dict[str, list[dict[str, str]]]:
    """The rows of a CSV by what they are."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(page.text, newline="")):
        rows.setdefault(row["row"], []).append(row)
    return rows


def cells(row: dict[str, str], *names: str) -> list[str]:
    return [row[name] for name in names]


async def test_a_table_says_what_the_statement_says(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    twice = await record(http, "1", AT, unitsConsumed="3")
    await record(http, "2", AT, service="compute", pricePerUnit="1")
    before = await issue(http, "2026-01")
    await void(http, twice)
    query = f"since={before['digest']}"
    answer = await statement(http, "2026-01", since=before["digest"])
    page = await fetch(http, f"{JANUARY}&{query}&format=csv")
    assert page.headers["Content-Disposition"] == 'attachment; filename="statement-2026-01.csv"'
    rows = table(page)
    assert {(r["customerId"], r["month"], r["timezone"], r["currency"]) for kind in rows.values() for r in kind} == {
        ("acme", "2026-01", "UTC", "USD")
    }
    kinds = ["line", "total", "late", "voided", "voidedTotal"]
    kinds += ["before", "after", "totalBefore", "totalDifference", "voidedSince"]
    assert [(kind, len(found)) for kind, found in rows.items()] == [(kind, 1) for kind in kinds]
    sums = ("service", "pricePerUnit", "records", "units", "amount")
    assert cells(rows["line"][0], *sums) == ["compute", "1", "1", "1.5", "1.5"]
    assert cells(rows["total"][0], "records", "amount", "rounded") == ["1", "1.5", "1.50"]
    assert cells(rows["total"][0], "digest", "digestKind", "status") == [answer["digest"], "merkle.v1", "provisional"]
    assert cells(rows["before"][0], *sums) == ["storage", "0.02", "1", "3", "0.06"]
    assert cells(rows["after"][0], *sums) == ["storage", "0.02", "0", "0", "0"]
    assert cells(rows["totalBefore"][0], "amount", "digest") == ["1.56", before["digest"]]
    assert cells(rows["totalDifference"][0], "records", "amount", "rounded") == ["-1", "-0.06", "-0.06"]
    voided = answer["voided"]["data"][0]
    for kind in ("voided", "voidedSince"):
        same = (
            "requestId",
            "eventId",
            "occurredAt",
            "recordedAt",
            "voidedAt",
            "voidReason",
            "voidedBy",
            "voidedFor",
            "amount",
        )
        assert cells(rows[kind][0], *same) == [voided[name] for name in same]


async def test_cells_that_a_spreadsheet_would_run_are_disarmed(http: aiohttp.ClientSession) -> None:
    rows = table(await nasty_statement(http, "csv"))
    for kind in ("line", "late", "voided", "after", "recordedSince", "voidedSince"):
        for row in rows[kind]:
            assert (rearm(row["service"]), rearm(row["customerId"])) == (NASTY, NASTY_ID)
    (voided,) = rows["voided"]
    assert [rearm(cell) for cell in cells(voided, "eventId", "voidReason", "voidedFor")] == [NASTY_ID, NASTY, NASTY]
    numbers = {"records", "amount", "rounded"}
    for row in (row for kind in rows.values() for row in kind):
        assert not [cell for name, cell in row.items() if name not in numbers and cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize(
    ("query", "accept", "format_"),
    [
        ("", None, "json"),
        ("", "*/*", "json"),
        ("", "application/*", "json"),
        ("", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("", "text/csv", "csv"),
        ("", "text/csv;q=0.4, application/json;q=0.5", "json"),
        ("", "image/png, text/html;q=0.1", "html"),
        ("format=json", "text/html", "json"),
        ("format=csv", "application/xml", "csv"),
        ("format=html", None, "html"),
    ],
)
async def test_the_form_is_what_is_asked_for(
    shared_http: aiohttp.ClientSession, query: str, accept: str | None, format_: str
) -> None:
    await post(shared_http, "/customers", {"id": "acme", "name": "Acme"})
    headers = {"Accept": accept} if accept else {}
    page = await fetch(shared_http, f"{JANUARY}&{query}".rstrip("&"), **headers)
    assert (page.status, page.headers["Content-Type"]) == (200, TYPES[format_])
    assert page.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", ["image/png", "text/html;q=0", "application/xml, image/*"])
async def test_a_form_that_there_is_not(shared_http: aiohttp.ClientSession, accept: str) -> None:
    (await send(shared_http, "GET", JANUARY, headers={"Accept": accept})).problem("not_acceptable")


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("", ["query/month"]),
        ("month=", ["query/month"]),
        ("month=2026-13", ["query/month"]),
        ("month=2026-00", ["query/month"]),
        ("month=2026-1", ["query/month"]),
        ("month=2026-01-01", ["query/month"]),
        ("month=0000-12", ["query/month"]),
        ("month=9999-01", ["query/month"]),
        ("month=%D9%A2%D9%A0%D9%A2%D9%A6-01", ["query/month"]),  # digits, but not ASCII
        ("month=2026-01%0A", ["query/month"]),
        ("month=2026-01&month=2026-02", ["query/month"]),
        ("month=2026-01&timezone=Mars/Olympus", ["query/timezone"]),
        ("month=2026-01&since=abc", ["query/since"]),
        (f"month=2026-01&since={'A' * 64}", ["query/since"]),
        (f"month=2026-01&since={'a' * 64}%0A", ["query/since"]),
        ("month=2026-01&format=xml", ["query/format"]),
        ("month=2026-01&from=2026-01-01", ["query/from"]),
        ("month=1&since=&timezone=", ["query/month", "query/since", "query/timezone"]),
    ],
)
async def test_a_bad_query(shared_http: aiohttp.ClientSession, query: str, pointers: list[str]) -> None:
    (await get(shared_http, f"{PATH}?{query}")).problem("validation_error", *pointers)


@pytest.mark.parametrize("month", ["0001-01", "9998-12"])
async def test_the_first_and_the_last_month(http: aiohttp.ClientSession, month: str) -> None:
    await given_customer(http)
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert (await statement(http, month, timezone=zone))["total"]["records"] == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/New_York"])
async def test_usage_of_the_first_month_has_a_statement(http: aiohttp.ClientSession, zone: str) -> None:
    await given_customer(http)
    await record(http, "1", "0001-01-01T00:00:00Z")
    first = await issue(http, "0001-01", timezone=zone)
    again = await statement(http, "0001-01", timezone=zone, since=first["digest"])
    assert (first["total"]["records"], again["changes"]["lines"]) == (1, [])


async def test_a_customer_that_is_not_there(shared_http: aiohttp.ClientSession) -> None:
    path = "/customers/nobody/statement?month=2026-01"
    (await get(shared_http, path)).problem("customer_not_found")
    (await get(shared_http, f"{path}&since={'0' * 64}")).problem("customer_not_found")


async def test_a_digest_is_of_one_customers_month_in_one_zone(http: aiohttp.ClientSession) -> None:
    for customer_id in ("acme", "other"):
        await given_customer(http, customer_id)
    await record(http, "1", AT)
    digest = (await issue(http, "2026-01"))["digest"]
    (await get(http, f"{JANUARY}&since={digest}")).require(200)
    for path in (
        f"/customers/other/statement?month=2026-01&since={digest}",
        f"{PATH}?month=2026-02&since={digest}",
        f"{JANUARY}&timezone=Europe/Berlin&since={digest}",
        f"{JANUARY}&since={'0' * 64}",
    ):
        (await get(http, path)).problem("statement_not_found")
