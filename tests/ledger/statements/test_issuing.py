"""Issued statements: numbered, never changed, and each one says what is different from the one before."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
from joserfc.jwk import OKPKey

from billing_client.contract.statements.checks import verify_statement
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, send
from tests.services import running_service
from tests.statements import issue, record, statement, void

PATH = "/customers/acme/statements"
MONTH = {"month": "2026-01"}
ROWS = "SELECT count(*) FROM {table}"


async def raw(http: aiohttp.ClientSession, path: str) -> bytes:
    async with http.get(path) as response:
        assert response.status == 200
        return await response.read()


async def test_reading_writes_nothing(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    await record(http, "1", "2026-01-05T00:00:00Z")
    for _ in range(2):
        assert (await statement(http, "2026-01"))["status"] == "provisional"
    for table in ("statements", "issued_statements", "usage_pieces", "usage_piece_parts"):
        assert await connection.fetchval(ROWS.format(table=table)) == 0


async def test_a_month_is_issued_once_until_something_comes(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    first_record = await record(http, "1", "2026-01-05T00:00:00Z")
    answers = await asyncio.gather(*(post(http, PATH, MONTH) for _ in range(6)))
    first = next(answer for answer in answers if not answer.replayed).require(201)
    assert [answer.replayed for answer in answers].count(False) == 1
    assert all(answer.require(201) == first for answer in answers)
    assert answers[0].headers["Location"] == f"{PATH}/1"
    assert (first["status"], first["number"], first["asOf"]) == ("issued", 1, first["issuedAt"])
    assert "previous" not in first
    assert "changes" not in first
    assert await statement(http, "2026-01") == first

    late = await record(http, "2", "2026-01-06T00:00:00Z", unitsConsumed="2")
    await void(http, first_record)
    between = await statement(http, "2026-01")
    reference = {name: first[name] for name in ("number", "digest", "issuedAt", "total")}
    assert (between["status"], between["previous"]) == ("provisional", reference)
    assert between["digest"] != first["digest"]
    second = await issue(http, "2026-01")
    assert (second["number"], second["previous"], second["digest"]) == (2, reference, between["digest"])
    changes = second["changes"]
    assert (changes["number"], changes["since"]) == (1, first["digest"])
    assert [r["requestId"] for r in changes["recorded"]] == [late["requestId"]]
    assert [r["requestId"] for r in changes["voided"]] == [first_record["requestId"]]
    assert changes["total"]["difference"] == {"records": 0, "amount": "0.01", "rounded": "0.01"}
    assert (await get(http, f"{PATH}/1")).require(200) == first


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
async def test_what_came_since_is_told_whatever_clocks_said(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", zone: str
) -> None:
    await given_customer(http)
    voided = await record(http, "1", "2026-01-31T22:30:00Z")
    first = await issue(http, "2026-01", timezone=zone)
    insert = "SELECT record_one_usage('acme', $1, $2, 'storage', 1, 1, '2026-01-31T22:00:00Z', $3, NULL, NULL, NULL)"
    ids = [bytes([number]) * 32 for number in range(3)]
    for id_, clock in zip(ids, ("2020-01-01T00:00Z", "2026-01-31T22:30:01Z", "2090-01-01T00:00Z"), strict=True):
        await connection.execute(insert, id_, id_.hex(), datetime.fromisoformat(clock))
    await void(http, voided)
    await connection.execute("UPDATE usage_voids SET voided_at = '2021-01-01T00:00Z'")
    changes = (await statement(http, "2026-01", timezone=zone, since=first["digest"]))["changes"]
    second = await issue(http, "2026-01", timezone=zone)
    for told in (changes, second["changes"]):
        assert {each["requestId"] for each in told["recorded"]} == {id_.hex() for id_ in ids}
        assert [each["requestId"] for each in told["voided"]] == [voided["requestId"]]
    again = (await statement(http, "2026-01", timezone=zone, since=second["digest"]))["changes"]
    assert (again["recorded"], again["voided"], again["lines"]) == ([], [], [])


async def test_it_is_read_again_byte_for_byte(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await record(http, "1", "2026-01-05T00:00:00Z")
    async with http.post(PATH, json=MONTH) as response:
        issued = await response.read()
    digest = (await get(http, f"{PATH}/1")).require(200)["digest"]
    await send(http, "PATCH", "/customers/acme", {"name": "Another name"})
    await record(http, "2", "2026-01-05T00:00:00Z")
    for name in ("1", digest):
        assert await raw(http, f"{PATH}/{name}") == issued
    page = await raw(http, f"{PATH}/1?format=html")
    assert digest.encode() in page
    for name in ("2", "0", "01", "x", "1" * 19, "0" * 64):
        (await get(http, f"{PATH}/{name}")).problem("statement_not_found")
    (await get(http, "/customers/nobody/statements/1")).problem("customer_not_found")


async def test_numbers_are_the_customers_and_the_list_is_by_number(http: aiohttp.ClientSession) -> None:
    for customer_id in ("acme", "other"):
        await given_customer(http, customer_id)
    for month in ("2026-02", "2026-01"):
        await issue(http, month)
    await issue(http, "2025-11", timezone="Europe/Berlin")
    assert (await issue(http, "2026-01", "other"))["number"] == 1
    page = (await get(http, f"{PATH}?limit=2")).require(200)
    rest = (await get(http, f"{PATH}?limit=2&cursor={quote(page['nextCursor'])}")).require(200)
    listed = page["data"] + rest["data"]
    assert [(each["number"], each["month"], each["timezone"]) for each in listed] == [
        (1, "2026-02", "UTC"),
        (2, "2026-01", "UTC"),
        (3, "2025-11", "Europe/Berlin"),
    ]
    assert rest["nextCursor"] is None
    assert listed[0]["total"] == {"records": 0, "amount": "0", "rounded": "0.00"}
    (await get(http, "/customers/nobody/statements")).problem("customer_not_found")


async def test_usage_is_billed_in_one_time_zone(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await record(http, "1", "2026-01-31T23:30:00Z")
    await issue(http, "2026-01")
    for month in ("2026-01", "2026-02"):  # the hour before UTC's February is in Berlin's
        body = {"month": month, "timezone": "Europe/Berlin"}
        (await post(http, PATH, body)).problem("billed_in_other_timezone")
        assert (await post(http, "/statements", body)).require(200)["issued"] == []
    assert (await issue(http, "2026-03", timezone="Europe/Berlin"))["number"] == 2
    assert [each["number"] for each in (await get(http, PATH)).require(200)["data"]] == [1, 2]


@pytest.mark.parametrize(
    ("body", "code", "pointers"),
    [
        ({"month": f"{datetime.now(UTC):%Y-%m}"}, "month_not_over", []),
        ({"month": "2026-13"}, "validation_error", ["/month"]),
        ({"month": "2026-01", "timezone": "Mars"}, "validation_error", ["/timezone"]),
        ({"month": "2026-01", "zone": "UTC"}, "validation_error", ["/zone"]),
        ({}, "validation_error", ["/month"]),
    ],
)
async def test_what_cannot_be_issued(
    shared_http: aiohttp.ClientSession, customer: str, body: Any, code: str, pointers: list[str]
) -> None:
    (await post(shared_http, f"/customers/{customer}/statements", body)).problem(code, *pointers)
    (await post(shared_http, "/statements", body)).problem(code, *pointers)


async def test_all_customers_are_issued_and_listed(http: aiohttp.ClientSession) -> None:
    for number in range(5):
        await given_customer(http, f"c{number}")
    for number in (0, 2, 4):
        await record(http, "1", "2026-01-05T00:00:00Z", customerId=f"c{number}", unitsConsumed=str(number))
    listed = (await get(http, "/statements?month=2026-01")).require(200)
    assert [(each["customerId"], each["status"]) for each in listed["data"]] == [
        (f"c{number}", "provisional") for number in (0, 2, 4)
    ]
    done = (await post(http, "/statements", MONTH)).require(200)
    assert [each["customerId"] for each in done["issued"]] == ["c0", "c2", "c4"]
    assert (done["unchanged"], done["nextCursor"], done["preparing"]) == (0, None, None)
    await record(http, "2", "2026-01-06T00:00:00Z", customerId="c2")
    await record(http, "1", "2026-01-06T00:00:00Z", customerId="c3")
    page = (await get(http, "/statements?month=2026-01&limit=2")).require(200)
    cursor = quote(page["nextCursor"])
    data = page["data"] + (await get(http, f"/statements?month=2026-01&limit=2&cursor={cursor}")).require(200)["data"]
    assert [(each["customerId"], each["status"], each.get("number")) for each in data] == [
        ("c0", "issued", 1),
        ("c2", "issued", 1),
        ("c3", "provisional", None),
        ("c4", "issued", 1),
    ]
    assert [each.get("notIssued") for each in data] == [None, {"records": 1, "amount": "0.03"}, None, None]
    assert data[1]["total"] == {"records": 1, "amount": "0.04", "rounded": "0.04"}
    done = (await post(http, "/statements", MONTH)).require(200)
    assert [(each["customerId"], each["number"]) for each in done["issued"]] == [("c2", 2), ("c3", 1)]
    assert done["unchanged"] == 2
    (await post(http, "/statements", MONTH | {"cursor": "x"})).problem("validation_error", "/cursor")


async def test_a_changed_record_keeps_no_other_customer_from_its_statement(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for number in range(3):
        await given_customer(http, f"c{number}")
        await record(http, "1", "2026-01-05T00:00:00Z", customerId=f"c{number}")
        await issue(http, "2026-01", f"c{number}")
        await record(http, "2", "2026-01-05T00:00:00Z", customerId=f"c{number}")
    wrong = await record(http, "3", "2026-01-05T00:00:00Z", customerId="c1")
    await connection.execute("UPDATE usage_records SET price_per_unit = 7 WHERE customer_id = 'c1' AND event_id = '1'")
    await void(http, wrong)
    done = (await post(http, "/statements", MONTH)).require(200)
    assert [(each["customerId"], each["number"]) for each in done["issued"]] == [("c0", 2), ("c2", 2)]
    (failure,) = done["failed"]
    assert (failure["customerId"], failure["code"]) == ("c1", "records_changed")
    assert (
        failure["detail"] == (await post(http, "/customers/c1/statements", MONTH)).problem("records_changed")["detail"]
    )
    assert (done["unchanged"], done["preparing"], done["nextCursor"]) == (0, None, None)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "Europe/Berlin", "Africa/Monrovia"])
async def test_the_list_has_the_totals_of_the_statements(http: aiohttp.ClientSession, zone: str) -> None:
    """Months begin amid three hours, in Kathmandu amid an hour, and began amid a quarter of an hour in Monrovia."""
    edges = ("1971-12-31T23:59:59Z", "1972-01-01T00:44:29Z", "1972-01-01T00:45:00Z", "1972-01-31T16:20:00Z")
    for n, customer in enumerate(("a", "b", "c")):
        await given_customer(http, customer)
        for at in (*edges[n:], "1972-02-01T00:44:00Z"):
            await record(http, at, at, customerId=customer)
    query = f"month=1972-01&timezone={zone}"
    listed = (await get(http, f"/statements?{query}&limit=2")).require(200)
    cursor = quote(listed["nextCursor"])
    data = listed["data"] + (await get(http, f"/statements?{query}&cursor={cursor}")).require(200)["data"]
    single = [(await get(http, f"/customers/{each}/statement?{query}")).require(200)["total"] for each in "abc"]
    assert [each["total"] for each in data] == single
    assert all(each["records"] for each in single)


async def test_a_signature_holds_of_what_was_signed_and_of_nothing_else(database_url: str, tmp_path: Path) -> None:
    old, new = (OKPKey.generate_key("Ed25519") for _ in range(2))
    file = tmp_path / "keys.pem"
    file.write_bytes(new.as_pem(private=True) + old.as_pem(private=False))
    with running_service(Settings(database_url=database_url, signing_key_file=str(file))) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            await record(http, "é世", "2026-01-05T00:00:00Z", service="R\u00e9seau")
            await void(http, await record(http, "2", "2026-01-05T00:00:00Z"), reason='"\\\u2028')
            async with http.post(PATH, json=MONTH) as response:
                document = await response.read()
            key_set = (await get(http, "/.well-known/jwks.json")).require(200)
            of_acme = (await get(http, PATH)).require(200)["data"]
            of_all = (await get(http, "/statements?month=2026-01")).require(200)["data"]
    signature = json.loads(document)["signature"]
    assert [each["signature"] for each in (*of_acme, *of_all)] == [signature, signature]
    assert [key["kid"] for key in key_set["keys"]] == [new.thumbprint(), old.thumbprint()]
    assert not [key for key in key_set["keys"] if "d" in key]
    check = verify_statement(document, key_set=key_set)
    assert (check.signed_by, check.faults) == (new.thumbprint(), [])
    for part, other in ((b'"0.03"', b'"0.02"'), ("R\u00e9seau".encode(), b"Reseau"), (b'"number":1', b'"number":2')):
        changed = document.replace(part, other)
        assert changed != document
        assert "was not signed like this" in verify_statement(changed, key_set=key_set).faults[0]
    without = verify_statement(document, key_set={"keys": [old.as_dict(private=False)]})
    assert "none of those given" in without.faults[0]


async def test_without_a_key_nothing_is_signed(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    assert "signature" not in await issue(http, "2026-01")
    assert [each["signature"] for each in (await get(http, PATH)).require(200)["data"]] == [None]
    assert (await get(http, "/.well-known/jwks.json")).require(200) == {"keys": []}
