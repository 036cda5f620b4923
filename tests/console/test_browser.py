"""The console in a real browser: Debian's Chromium, driven by Playwright, and axe-core's rules of accessibility."""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.console.conftest import HOSTILE, Stage

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra `browser`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt install chromium)")
expect = playwright_api.expect
PATIENCE = 20_000.0  # milliseconds that a slow machine gets; what is waited for usually takes less than a second
# each violation of the policy becomes an error in the console of the page
TELL_VIOLATIONS = "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective));"
CUT_TABLES = """[...document.querySelectorAll(".wide:has(.stack)")]
    .filter((each) => each.scrollWidth > each.clientWidth)
    .map((each) => [each.ariaLabel, each.scrollWidth, each.clientWidth])"""
PAGES = {
    "overview": "/console",
    "customers": "/console/customers",
    "customer": "/console/customers/acme",
    "hostile customer": f"/console/customers/{quote(HOSTILE, safe='')}",
    "record": "/console/find?q=job/1",
    "find": f"/console/find?q={quote('e')}",
    "refusals": "/console/refusals",
    "statements": "/console/statements",
    "keys": "/console/keys",
    "no page": "/console/nowhere",
}
USAGE = {"customerId": "acme", "service": "compute", "unitsConsumed": "1", "pricePerUnit": "1"}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser."""
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, stage: Stage) -> Iterator[Open]:
    """Opens a browser's window, signed in unless `key` is None. What goes wrong in any of them fails the test."""
    faults: list[str] = []
    contexts = []

    def open_(key: str | None = stage.admin, **options: Any) -> Any:
        context = chromium.new_context(base_url=stage.service.url, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(TELL_VIOLATIONS)
        context.on("page", watch)
        page = context.new_page()
        if key is not None:
            page.goto("/console/sign-in")
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/console")
        return page

    def watch(page: Any) -> None:
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))

    playwright_api.expect.set_options(timeout=PATIENCE)
    yield open_
    for context in contexts:
        context.close()
    assert [fault for fault in faults if "status of 4" not in fault] == [], "the browser logs each answer of 4xx, too"


@pytest.mark.parametrize(
    "look",
    [
        {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
        {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
    ],
    ids=["1280 light", "320 dark"],
)
def test_every_page_is_accessible_fits_and_is_not_blocked(stage: Stage, opened: Open, look: dict[str, Any]) -> None:
    stage.refuse()
    page = opened(**look)
    axe = axe_api.Axe()
    for name, path in PAGES.items():
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        found = axe.run(page)
        assert found.violations_count == 0, (name, found.generate_report())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
        assert page.evaluate(CUT_TABLES) == [], f"tables of {name} are cut"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (look["color_scheme"] == "light")
    page.goto("/console/sign-in")
    assert axe.run(page).violations_count == 0


def test_the_policy_is_enforced(chromium: Any, stage: Stage) -> None:
    context = chromium.new_context(base_url=stage.service.url)
    page = context.new_page()
    page.goto("/console/sign-in")
    blocked = page.evaluate(
        """() => new Promise((done) => {
            const seen = [];
            addEventListener("securitypolicyviolation", (event) => {
                seen.push(event.effectiveDirective);
                if (seen.length === 3) done(seen.sort());
            });
            const script = document.createElement("script");
            script.textContent = "window.wasObeyed = true";
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
            fetch("https://elsewhere.example/").catch(() => {});
        })"""
    )
    assert blocked == ["connect-src", "script-src-elem", "style-src-attr"]
    assert page.evaluate("window.wasObeyed") is None
    context.close()


def test_signing_in_by_keyboard_alone_and_out_again(opened: Open, stage: Stage) -> None:
    page = opened(key=None)
    page.goto("/console/customers")
    page.keyboard.type("bk_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    page.keyboard.type(stage.reader)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/customers")
    page.keyboard.press("Tab")
    expect(page.get_by_text("To the content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Customers")).to_be_visible()
    assert page.evaluate("document.cookie") == "", "no script reads the session"
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    page.go_back()
    expect(page.get_by_label("API key")).to_be_visible()


def test_customers_are_found_while_one_types(opened: Open) -> None:
    page = opened()
    page.goto("/console/customers")
    page.get_by_label("Id or name").press_sequentially("zen")
    rows = page.get_by_role("region", name="Customers").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("Zenith Ltd")
    page.wait_for_url("**/console/customers?q=zen**")
    page.get_by_role("link", name="Zenith Ltd").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Zenith Ltd")
    page.go_back()
    expect(page.get_by_label("Id or name")).to_have_value("zen")
    expect(rows).to_have_count(1)


def test_a_void_shows_in_another_tab(opened: Open, stage: Stage) -> None:
    customer = opened()
    customer.goto("/console/customers/zenith")
    first = customer.context.new_page()
    second = customer.context.new_page()
    for tab in (first, second):
        tab.goto("/console/find?q=job/6")
        tab.get_by_label("Reason").fill("metered twice")
    before = customer.locator("#live").inner_text()
    first.get_by_role("button", name="Void this record").click()
    expect(first.get_by_role("heading", name="Voided", exact=True)).to_be_visible()
    second.get_by_label("Reason").fill("another reason")
    second.get_by_role("button", name="Void this record").click()
    expect(second.get_by_text("metered twice")).to_be_visible()
    customer.bring_to_front()
    expect(customer.locator("#live")).not_to_have_text(before)
    first.go_back()
    expect(first.get_by_role("heading", level=1)).to_be_visible()


def test_pages_follow_what_changes(opened: Open, stage: Stage) -> None:
    overview = opened()
    expect(overview.get_by_text("The page follows what changes.")).to_be_visible()
    billed = overview.locator(".figures .big").first
    before = billed.inner_text()
    summary = overview.get_by_text("The same as a table")
    summary.click()
    stage.record("live/1", "1000")
    expect(billed).not_to_have_text(before)
    expect(overview.get_by_role("region", name="Billed by day", exact=True)).to_be_visible()
    expect(summary).to_be_focused()
    stage.refuse("live/1")
    expect(overview.get_by_role("region", name="Customers that changed most")).to_be_visible()
    expect(overview.locator(".wrong")).to_contain_text("This event id is recorded with other data")
    of_acme = opened(stage.of_acme)
    of_acme.goto("/console/customers/acme")
    records = of_acme.locator("#live p").first
    before = records.inner_text()
    stage.record("live/2", "1")
    expect(records).not_to_have_text(before)


def test_a_statement_is_issued_and_opened(opened: Open) -> None:
    page = opened(viewport={"width": 390, "height": 800})
    page.get_by_role("link", name="Statements").click()
    rows = page.get_by_role("region", name="Statements").locator("tbody tr")
    expect(rows.first).to_contain_text("provisional")
    page.get_by_role("button", name=re.compile("^Issue all of")).click()
    expect(rows.first).to_contain_text("issued")
    page.get_by_role("link", name=re.compile("Statement 1 of .* as HTML")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Statement")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "the statement is wider than a telephone"
    )
    assert page.evaluate(CUT_TABLES) == []
    page.go_back()
    expect(rows.first).to_contain_text("issued")


def test_a_permalink_and_a_call_are_copied(opened: Open, stage: Stage) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/console/customers/acme?from=2026-01-01&to=2026-01-31&timezone=Asia/Tokyo")
    page.get_by_role("button", name="Copy the permalink").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto(link)
    assert page.url == link
    expect(page.get_by_label("From", exact=True)).to_have_value("2026-01-01")
    page.get_by_text("The same from the API, as curl").click()
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#curl").inner_text()


def test_what_is_issued_part_by_part_goes_on_only_if_it_was_begun_here(opened: Open, stage: Stage) -> None:
    page = opened()
    stage.post("/usage", {**USAGE, "eventId": "part/1", "occurredAt": "2026-03-10T00:00:00Z"})
    part = "/console/statements?month=2026-03&going_on=acme"
    page.goto(part)
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.url.endswith("going_on=acme"), "a link issues nothing"
    page.evaluate("sessionStorage.setItem('part', '2026-03 UTC')")
    page.goto(part)
    page.wait_for_url("**/console/statements?month=2026-03")
    expect(page.get_by_role("region", name="Statements")).to_contain_text("provisional")  # acme was before this part


def test_everything_works_without_scripts(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    expect(page.get_by_role("img", name=re.compile("Billed in"))).to_be_visible()
    page.get_by_role("link", name="Customers", exact=True).click()
    page.get_by_label("Id or name").fill("zen")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Zenith Ltd").click()
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("footer")).to_contain_text("JST")
    page.get_by_text("The same from the API, as curl").click()
    expect(page.locator("#curl")).to_contain_text("timezone=Asia%2FTokyo")
    page.get_by_role("link", name="Find", exact=True).click()
    page.get_by_label("Request id, event id or customer").fill("job/9")
    page.get_by_role("button", name="Find").click()
    page.get_by_label("Reason").fill("without a script")
    page.get_by_role("button", name="Void this record").click()
    expect(page.get_by_text("without a script")).to_be_visible()


def test_a_link_from_another_site_leads_to_its_page(opened: Open, stage: Stage) -> None:
    page = opened()
    goal = f"{stage.service.url}/console/customers/acme?from=2026-01-01&to=2026-01-31"
    links = f'<a href="{goal}">look</a> <a href="{stage.service.url}/console/sign-in">sign in</a>'
    page.route("http://chat.example/", lambda route: route.fulfill(body=links, content_type="text/html"))
    page.goto("http://chat.example/")
    page.get_by_role("link", name="look").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Acme Corporation")
    assert page.url == goal
    page.goto("http://chat.example/")
    page.get_by_role("link", name="sign in").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto("/console")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_a_page_is_printed_without_what_paper_cannot_do(opened: Open) -> None:
    page = opened(color_scheme="dark")
    page.goto("/console/customers/acme")
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation", name="Pages", exact=True)).to_be_hidden()
    expect(page.get_by_role("button", name="Show")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 1_000
