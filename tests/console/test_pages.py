"""The pages over HTTP: who sees what, that numbers add up, and that writes come from our forms only."""

import json
import shlex
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import escape, unescape
from urllib.parse import quote

import msgspec
import pytest

from billing_client.contract.statements.content_hashes import record_hash
from billing_client.contract.wire import UsageRecord
from billing_service.http.sessions import ATTEMPTS
from tests.calls import exchange, is_now, request_head
from tests.console.browsers import Page, Visitor
from tests.console.conftest import HOSTILE, Stage
from tests.databases import execute, run
from tests.keys import given_key, id_of, revoke

PAGES = ["/console", "/console/customers", "/console/customers/acme", "/console/find?q=job/1", "/console/keys"]


@pytest.fixture
def admin(stage: Stage) -> Visitor:
    """Somebody who signed in with the admin's key."""
    visitor = Visitor(stage.service)
    assert visitor.sign_in(stage.admin).status == 303
    return visitor


def amount(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def wide_span(**parameters: str) -> str:
    day = datetime.now(UTC).date()
    span = {"from": (day - timedelta(days=60)).isoformat(), "to": (day + timedelta(days=1)).isoformat()} | parameters
    return "&".join(f"{name}={quote(value)}" for name, value in span.items())


@pytest.mark.parametrize("path", PAGES)
def test_a_page_sends_strangers_to_sign_in_and_back(stage: Stage, path: str) -> None:
    visitor = Visitor(stage.service)
    answer = visitor.get(path)
    assert answer.status == 303
    form = visitor.get(answer.headers["Location"])
    assert escape(path) in form.text
    signed_in = visitor.sign_in(stage.admin, path)
    assert (signed_in.status, signed_in.headers["Location"]) == (303, path)
    assert visitor.get(path).status in (200, 303)


def test_the_root_leads_a_browser_to_the_console_and_nobody_else(stage: Stage) -> None:
    answer = exchange(stage.service, request_head("GET", "/", "Accept: text/html,application/xhtml+xml"))
    assert (answer.status, answer.headers["Location"]) == (302, "/console")
    exchange(stage.service, request_head("GET", "/", "Accept: application/json")).problem("not_found")
    exchange(stage.service, request_head("GET", "/")).problem("not_found")


@pytest.mark.parametrize(
    "goal",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/consolevil", "javascript:alert(1)", "/docs"],
)
def test_signing_in_leads_to_the_console_only(stage: Stage, goal: str) -> None:
    assert Visitor(stage.service).sign_in(stage.reader, goal).headers["Location"] == "/console"


def test_the_cookie_is_kept_from_scripts_and_other_sites(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    before = visitor.get("/console/sign-in").headers["Set-Cookie"]
    cookie = visitor.sign_in(stage.reader).headers["Set-Cookie"]
    assert before.partition(";")[0] != cookie.partition(";")[0]  # a new one: nobody can have known it
    attributes = {part.strip().lower() for part in cookie.split(";")}
    assert {"httponly", "samesite=strict", "path=/console", "max-age=43200"} <= attributes
    assert "secure" not in attributes
    page = visitor.get("/console/sign-in")
    token = page.text.partition('name="csrf" value="')[2][:64]
    fields = {"csrf": token, "key": stage.reader}
    over_tls = visitor.post("/console/sign-in", fields, "Origin: https://billing.example")
    assert "secure" in over_tls.headers["Set-Cookie"].lower()


@pytest.mark.parametrize("path", ["/console/sign-in", "/console/sign-out"])
def test_another_site_signs_nobody_in_or_out_behind_the_password_of_a_proxy(stage: Stage, path: str) -> None:
    """A browser sends that password by itself, with the forms of other sites too."""
    stranger = Visitor(stage.service)
    answer = stranger.post(path, {"key": stage.reader}, "Authorization: Basic cHJveHk6cGFzc3dvcmQ=")
    assert answer.status == 403
    assert stranger.get("/console").status == 303, "to sign in"


def test_a_key_that_is_not_valid_does_not_sign_in_and_attempts_are_limited(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    form = visitor.get("/console/sign-in")
    wrong = visitor.submit(form, "/console/sign-in", key=stage.reader[:-1] + ("0" if stage.reader[-1] != "0" else "1"))
    assert wrong.status == 401
    assert "not valid" in wrong.shown
    assert visitor.get("/console").status == 303
    statuses = {visitor.submit(form, "/console/sign-in", key="bk_").status for _ in range(ATTEMPTS.quota)}
    assert statuses == {401, 429}
    limited = visitor.submit(form, "/console/sign-in", key=stage.reader)
    assert limited.status == 429
    assert int(limited.headers["Retry-After"]) > 0
    assert Visitor(stage.service).sign_in(stage.reader).status == 303, "others are not in the way"


def test_a_session_ends_with_its_key(stage: Stage) -> None:
    url = stage.service.settings.database_url
    key = run(given_key(url, "usage:read"))
    visitor = Visitor(stage.service)
    visitor.sign_in(key)
    assert visitor.get("/console").status == 200
    run(revoke(url, key))
    assert visitor.get("/console").status == 303


def test_a_session_ends_when_somebody_signs_out_and_after_its_time(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    visitor.sign_in(stage.reader)
    cookies = dict(visitor.cookies)
    page = visitor.get("/console")
    assert visitor.submit(page, "/console/sign-out").status == 303
    visitor.cookies = cookies
    assert visitor.get("/console").status == 303, "the session lives on the server, not in the cookie"
    visitor.sign_in(stage.reader)
    assert visitor.get("/console").status == 200
    until = run(execute(str(stage.service.settings.database_url), "SELECT max(expires_at) FROM console_sessions"))
    assert is_now(until - timedelta(hours=12), datetime.now(UTC) - timedelta(minutes=5))
    run(
        execute(
            str(stage.service.settings.database_url), "UPDATE console_sessions SET expires_at = now() - interval '9 s'"
        )
    )
    assert visitor.get("/console").status == 303


def test_signing_in_anew_ends_the_session_before(stage: Stage) -> None:
    """Nobody could sign out of it afterwards: its cookie is gone."""
    visitor = Visitor(stage.service)
    visitor.sign_in(stage.reader)
    before = dict(visitor.cookies)
    visitor.sign_in(stage.of_acme)
    assert visitor.get("/console").status == 200
    visitor.cookies = before
    assert visitor.get("/console").status == 303


def test_only_the_hash_of_a_session_is_stored(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    visitor.sign_in(stage.reader)
    (token,) = visitor.cookies.values()
    query = f"SELECT count(*) FROM console_sessions WHERE console_sessions::text LIKE '%{token}%'"
    assert run(execute(str(stage.service.settings.database_url), query)) == 0


def test_a_key_of_a_customer_sees_that_customer_alone(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    visitor.sign_in(stage.of_acme)
    for path in (*PAGES[:4], "/console/customers?q=e", f"/console/find?q={quote('Zenith')}"):
        page = visitor.get(path)
        assert page.status in (200, 303), path
        assert "Zenith" not in page.shown.replace("“ Zenith ”", ""), path
    assert visitor.get("/console/customers/zenith").status == 403
    assert visitor.get("/console/customers/nobody").status == 403
    assert visitor.get("/console/keys").status == 403
    assert visitor.get("/console/find?q=job/3").status == 200, "an event of zenith's"
    assert "No" in visitor.get("/console/find?q=job/3").shown
    found = visitor.get("/console/find?q=job/1")
    assert found.headers["Location"].startswith("/console/customers/acme/records/")


def test_a_key_that_may_not_read_usage_is_told_so(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    visitor.sign_in(run(given_key(stage.service.settings.database_url, "usage:write")))
    page = visitor.get("/console")
    assert page.status == 403
    assert "usage:read" in page.shown


def test_a_key_that_may_read_customers_but_no_usage_sees_names_alone(stage: Stage) -> None:
    visitor = Visitor(stage.service)
    visitor.sign_in(run(given_key(stage.service.settings.database_url, "customers:read")))
    rows = visitor.get("/console/customers?q=acme").rows("Customers")
    assert rows == [["Customer"], ["Acme Corporation acme"]]


def test_the_rows_of_a_customer_add_up_and_are_what_the_api_says(stage: Stage, admin: Visitor) -> None:
    page = admin.get(f"/console/customers/acme?{wide_span()}")
    for table in ("By service", "By day"):
        *rows, last = page.rows(table)[1:]
        assert len(rows) > 3
        assert sum(amount(row[-1]) for row in rows) == amount(last[-1])
        assert sum(int(row[1]) for row in rows) == int(last[1])
    day = datetime.now(UTC).date()
    path = f"/customers/acme/summary?from={day - timedelta(days=60)}T00:00:00Z&to={day + timedelta(days=2)}T00:00:00Z"
    total = exchange(stage.service, request_head("GET", path, f"Authorization: Bearer {stage.admin}")).require(200)[
        "total"
    ]
    assert amount(page.rows("By service")[-1][-1]) == Decimal(total["amount"])


def test_a_customer_by_dimension_adds_up_to_the_same(stage: Stage, admin: Visitor) -> None:
    body = {"customerId": "zenith", "service": "tokens", "unitsConsumed": "3", "pricePerUnit": "0.7"}
    for n, model in enumerate(("large", "small", HOSTILE)):
        stage.post("/usage", body | {"eventId": f"tokens/{n}", "dimensions": {"model": model}})
    by_service = admin.get(f"/console/customers/zenith?{wide_span()}")
    by_model = admin.get(f"/console/customers/zenith?{wide_span(by='model')}")
    *rows, last = by_model.rows("By service")[1:]
    assert {row[0] for row in rows} == {"large", "small", HOSTILE, "without it"}
    assert sum(amount(row[-1]) for row in rows) == amount(last[-1])
    assert last[-1] == by_service.rows("By service")[-1][-1]
    assert "groupBy=dimension.model%2C" in by_model.shown
    assert admin.get("/console/customers/zenith?by=a,b").status == 400
    large = admin.get(f"/console/customers/zenith?{wide_span(by='model', where='model=large')}")
    (record,) = large.rows("Records")[1:]
    assert record[1] == "tokens"
    assert "where=model%3Dlarge" in by_model.text, "the row of a value leads to its records"
    assert admin.get("/console/customers/zenith?where=model").status == 400
    assert admin.get(f"/console/customers/zenith?by={'x' * 65}").status == 400


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_the_overview_adds_up_in_any_time_zone(stage: Stage, admin: Visitor, zone: str) -> None:
    page = admin.get(f"/console?timezone={zone}", "Cache-Control: no-cache")
    header, *rows, last = page.rows("Billed by day")
    assert "other services" not in header
    for row in [*rows, last]:
        named = sum((amount(cell) for cell in row[1:-2] if cell), Decimal(0))
        assert named == (amount(row[-2]) if row[-2] else 0), row
    for column in (-1, -2):
        assert sum((amount(row[column]) for row in rows if row[column]), Decimal(0)) == amount(last[column])
    first = datetime.now(UTC).date().replace(day=1)
    path = f"/summary?groupBy=month&timezone={zone}"
    pages = exchange(stage.service, request_head("GET", path, f"Authorization: Bearer {stage.admin}")).require(200)
    groups = [group for each in pages["data"] for group in each["groups"] if group["month"] == f"{first:%Y-%m}"]
    assert sum(Decimal(group["amount"]) for group in groups) == amount(last[-2])


def test_an_overview_that_must_be_fresh_holds_what_was_just_committed(stage: Stage, admin: Visitor) -> None:
    def billed(*headers: str) -> str:
        return admin.get("/console", *headers).text.partition('class="big">')[2].partition("</dd>")[0]

    before = billed("Cache-Control: no-cache")
    for n in range(3):
        stage.record(f"fresh/{n}", "1")
        after = billed("Cache-Control: no-cache")
        assert after != before
        assert billed() == after, "it is kept for others"
        before = after


def test_customers_are_found_by_id_and_name_and_in_pages(stage: Stage, admin: Visitor) -> None:
    assert [row[0] for row in admin.get("/console/customers?q=CORP").rows("Customers")[1:]] == ["Acme Corporation acme"]
    assert [row[0] for row in admin.get("/console/customers?q=enit").rows("Customers")[1:]] == ["Zenith Ltd zenith"]
    url = str(stage.service.settings.database_url)
    ids = "'many ' || lpad(n::text, 3, '0')"
    run(execute(url, f"INSERT INTO customers SELECT {ids}, 'Many', now(), now() FROM generate_series(1, 60) AS n"))
    seen: list[str] = []
    address: str | None = "/console/customers?q=many"
    while address is not None:
        page = admin.get(address)
        seen += [row[0].removeprefix("Many ") for row in page.rows("Customers")[1:]]
        following = page.text.partition('rel="next"')
        address = following[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&") if following[1] else None
    assert seen == [f"many {n:03}" for n in range(1, 61)]


def test_a_record_says_who_recorded_it_when_and_with_which_call(stage: Stage, admin: Visitor) -> None:
    usage = {"customerId": "acme", "service": "told", "unitsConsumed": "2", "pricePerUnit": "0.5", "eventId": "told/1"}
    body = json.dumps(usage | {"dimensions": {"model": "large"}}).encode()
    head = request_head(
        "POST",
        "/usage",
        f"Authorization: Bearer {stage.admin}",
        "Content-Type: application/json",
        "Idempotency-Key: call-17",
        f"Content-Length: {len(body)}",
    )
    recorded = exchange(stage.service, head + body).require(201)
    page = admin.get(admin.get("/console/find?q=told/1").headers["Location"])
    content_hash = record_hash(msgspec.convert(recorded, UsageRecord[str])).hex()
    for told in (
        f"By API key bk_{id_of(stage.admin)}",
        "Idempotency-Key call-17",
        "Event id told/1",
        f"Request id {recorded['requestId']}",
        f"Content hash {content_hash}",
        "2 \N{MULTIPLICATION SIGN} 0.5 = 1 USD",
        "model large",
        datetime.fromisoformat(recorded["recordedAt"]).isoformat(),
    ):
        assert told in page.shown


def test_the_curl_and_the_permalink_of_a_page_give_its_numbers(stage: Stage, admin: Visitor) -> None:
    page = admin.get(f"/console/customers/acme?{wide_span(timezone='Asia/Tokyo')}")
    *_, address = shlex.split(unescape(page.text.partition('<pre id="curl">')[2].partition("</pre>")[0]))
    path = address.removeprefix(stage.service.url)
    answer = exchange(stage.service, request_head("GET", path, f"Authorization: Bearer {stage.admin}")).require(200)
    assert Decimal(answer["total"]["amount"]) == amount(page.rows("By service")[-1][-1])
    link = page.text.partition('">Permalink to this span')[0].rpartition('href="')[2]
    assert admin.get(unescape(link)).rows("By day") == page.rows("By day")


def test_names_are_shown_and_never_obeyed(stage: Stage, admin: Visitor) -> None:
    for path in (
        "/console",
        f"/console/customers?q={quote(HOSTILE)}",
        f"/console/customers/{quote(HOSTILE, safe='')}",
        f"/console/find?q={quote(HOSTILE)}",
        f"/console/customers/acme?{wide_span(service=HOSTILE)}",
    ):
        page = admin.get(path)
        if page.status == 303:
            page = admin.get(page.headers["Location"])
        assert "<img" not in page.text, path
        assert escape(HOSTILE, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page.text, path


def test_a_record_is_voided_once_with_a_reason_by_keys_that_may(stage: Stage, admin: Visitor) -> None:
    address = admin.get("/console/find?q=job/4").headers["Location"]
    page = admin.get(address)
    assert "Void this record" in page.shown
    empty = admin.submit(page, f"{address}/void", reason=" ")
    assert empty.status == 400
    assert admin.submit(page, f"{address}/void", reason=HOSTILE, voided_for="support").status == 303
    voided = admin.get(address)
    assert "Void this record" not in voided.shown
    assert f"Reason {HOSTILE}" in voided.shown
    assert "On behalf of support" in voided.shown
    reader = Visitor(stage.service)
    reader.sign_in(stage.reader)
    other = reader.get("/console/find?q=job/5").headers["Location"]
    page = reader.get(other)
    assert "Void this record" not in page.shown
    assert reader.submit(page, f"{other}/void", reason="no").status == 403


def test_what_was_refused_is_found_where_one_looks_for_it(stage: Stage, admin: Visitor) -> None:
    stage.refuse("job/10")
    stage.post("/usage/batch", {"records": [{"customerId": "acme", "service": HOSTILE, "eventId": "lost/1"}]})
    page = _until(admin, "/console/refusals", "lost/1")
    rows = page.rows("Refusals")[1:]
    assert [row[2] for row in rows[:2]] == ["acme", "acme"]
    assert "/unitsConsumed is required" in rows[0][1].replace("  ", " ")
    counts = {row[1]: row[0] for row in page.rows("By API key and reason")[1:]}
    assert counts["This event id is recorded with other data"] == f"bk_{id_of(stage.admin)}"
    assert "service requests is recorded, another came" in " ".join(rows[1][1].split())
    assert "lost/1" not in admin.get("/console/refusals?code=event_id_conflict").shown
    assert "It was reported, and not recorded" in admin.get("/console/find?q=lost/1").shown
    record = admin.get(admin.get("/console/find?q=job/10").headers["Location"])
    (refused,) = record.rows("Refused under its id")[1:]
    assert "service requests is recorded, another came" in refused[1]
    assert refused[3] == f"bk_{id_of(stage.admin)}"
    overview = admin.get("/console")
    assert "refused by API key" in overview.shown
    of_zenith = Visitor(stage.service)
    of_zenith.sign_in(run(given_key(stage.service.settings.database_url, "usage:read", customer_id="zenith")))
    assert "lost/1" not in of_zenith.get("/console/refusals").shown
    assert of_zenith.get("/console/refusals?customer=acme").status == 403
    assert of_zenith.get("/console/events?customerId=acme").status == 403
    assert admin.get("/console/refusals?code=nonsense").status == 400
    assert admin.get("/console/refusals?request=nonsense").status == 400
    assert admin.get("/console/refusals?key=nonsense").status == 400


def _until(visitor: Visitor, path: str, text: str) -> Page:
    """The page once it holds a text: refusals are written after the answer."""
    for _ in range(300):
        page = visitor.get(path)
        if text in page.shown:
            return page
        time.sleep(0.1)
    raise AssertionError(page.shown)


def test_statements_are_issued_and_downloaded(stage: Stage, admin: Visitor) -> None:
    for n, customer in enumerate(("acme", "zenith")):
        body = {"customerId": customer, "service": "old", "unitsConsumed": "10", "pricePerUnit": "0.333"}
        stage.post("/usage", body | {"eventId": f"old/{n}", "occurredAt": "2026-01-15T12:00:00Z"})
    page = admin.get("/console/statements?month=2026-01")
    assert [row[:5] for row in page.rows("Statements")[1:]] == [
        ["Acme Corporation acme", "provisional", "1", "3.33", "HTML PDF CSV JSON"],
        ["Zenith Ltd zenith", "provisional", "1", "3.33", "HTML PDF CSV JSON"],
    ]
    reader = Visitor(stage.service)
    reader.sign_in(stage.reader)
    form = reader.get("/console/statements?month=2026-01")
    assert "Issue all" not in form.shown
    assert reader.submit(form, "/console/statements", month="2026-01", timezone="UTC").status == 403
    one = admin.submit(page, "/console/customers/zenith/statements", month="2026-01", timezone="UTC")
    assert one.headers["Location"] == "/console/customers/zenith#statements"
    every = admin.submit(page, "/console/statements", month="2026-01", timezone="UTC")
    page = admin.get(every.headers["Location"])
    assert [row[1].split(" no. ")[0] for row in page.rows("Statements")[1:]] == ["issued", "issued"]
    for format_, type_ in (("html", "text/html"), ("csv", "text/csv"), ("json", "application/json")):
        issued = admin.get(f"/console/customers/acme/statements/1?format={format_}")
        assert (issued.status, issued.headers["Content-Type"].partition(";")[0]) == (200, type_)
        standing = admin.get(f"/console/customers/acme/statement?month=2026-02&format={format_}")
        assert (standing.status, standing.headers["Content-Type"].partition(";")[0]) == (200, type_)
    assert reader.get("/console/customers/acme/statements/9").status == 404
    of_acme = Visitor(stage.service)
    of_acme.sign_in(stage.of_acme)
    assert [row[0] for row in of_acme.get("/console/statements?month=2026-01").rows("Statements")[1:]] == [
        "Acme Corporation acme"
    ]
    assert of_acme.get("/console/customers/zenith/statements/1").status == 403
    record = admin.get(admin.get("/console/find?q=old/0").headers["Location"])
    assert "proof that it counts there" in record.shown
    proof = record.text.partition("/proof?")[2].partition('"')[0].replace("&amp;", "&")
    address = record.text.partition("/proof?")[0].rpartition('href="')[2]
    assert admin.get(f"{address}/proof?{proof}").status == 200
    late = {"customerId": "acme", "service": "old", "unitsConsumed": "1", "pricePerUnit": "1", "eventId": "old/late"}
    stage.post("/usage", late | {"occurredAt": "2026-01-16T12:00:00Z"})
    row = admin.get("/console/statements?month=2026-01").rows("Statements")[1]
    assert "since then +1 in +1 records" in row[1]
    assert admin.submit(page, "/console/customers/acme/statements", month="2099-01", timezone="UTC").status == 409
    assert admin.submit(page, "/console/customers/acme/statements", month="x", timezone="UTC").status == 400
    assert admin.get("/console/statements?month=x").status == 400


def test_the_statements_of_the_month_before_are_to_be_issued(stage: Stage, admin: Visitor) -> None:
    assert "to be issued for" in admin.get("/console", "Cache-Control: no-cache").shown


def test_a_form_that_is_not_ours_writes_nothing(stage: Stage, admin: Visitor) -> None:
    address = admin.get("/console/find?q=job/7").headers["Location"]
    page = admin.get(address)
    token = page.text.partition('name="csrf" value="')[2][:64]
    stranger = Visitor(stage.service).get("/console/sign-in").text.partition('name="csrf" value="')[2][:64]
    assert admin.post(f"{address}/void", {"reason": "x"}).status == 403
    assert admin.post(f"{address}/void", {"reason": "x", "csrf": stranger}).status == 403
    assert admin.post(f"{address}/void", {"reason": "x", "csrf": token}, "Sec-Fetch-Site: cross-site").status == 403
    assert admin.post("/console/keys", {"name": "x", "scope admin": "on"}).status == 403
    assert admin.post("/console/sign-out", {}).status == 403
    admin.cookies.clear()
    assert admin.post(f"{address}/void", {"reason": "x", "csrf": token}).status == 303, "to sign in"
    admin.sign_in(stage.admin)
    assert "Void this record" in admin.get(address).shown


def test_a_key_is_shown_once_and_revoked(stage: Stage, admin: Visitor) -> None:
    page = admin.get("/console/keys")
    fields = {"name": "nightly", "scope usage:write": "on", "customer": "acme", "expires": "2099-01-01"}
    created = admin.submit(page, "/console/keys", **fields)
    key = created.text.partition('<pre id="new-key">')[2].partition("<")[0]
    assert key.startswith("bk_")
    assert key not in admin.get("/console/keys").text
    row = next(row for row in admin.get("/console/keys").rows("API keys") if row[0].startswith("nightly"))
    assert row[1:3] == ["usage:write", "acme"]
    assert "never" in row[4]
    assert admin.submit(page, f"/console/keys/{id_of(key)}/revoke").status == 303
    row = next(row for row in admin.get("/console/keys").rows("API keys") if row[0].startswith("nightly"))
    assert row[5].startswith("revoked")
    assert admin.submit(page, "/console/keys", name="no scopes").status == 400
    assert admin.submit(page, "/console/keys", name="x", customer="nobody", **{"scope admin": "on"}).status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/console/customers/acme?from=2026-02-30", 400),
        ("/console/customers/acme?from=2026-02-02&to=2026-02-01", 400),
        ("/console/customers/acme?from=0001-12-31", 400),
        ("/console/customers/acme?cursor=abc", 400),
        ("/console?timezone=Mars/Phobos", 400),
        ("/console/customers/nobody", 404),
        ("/console/customers/acme/records/none", 404),
        (f"/console/customers/acme/records/{'0' * 64}", 404),
        ("/console/nowhere", 404),
        ("/console/customers/acme?from=0002-01-01&to=9997-12-31", 200),
        ("/console/customers/acme?from=2026-03-29&to=2026-03-29&timezone=Europe/Berlin", 200),
        ("/console/customers?q=" + "x" * 201, 400),
        ("/console/find?q=%01", 200),
        *(
            (f"/console{page}=%00", 400)
            for page in ("/find?q", "/customers?q", "/customers/acme?service", "/refusals?customer")
        ),
    ],
)
def test_whatever_is_asked_the_answer_is_a_page(admin: Visitor, path: str, status: int) -> None:
    page: Page = admin.get(path)
    assert page.status == status
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<h1>" in page.text
