"""Every record, as a stream that can be recorded again."""

import csv
import gzip
import io
import json
from typing import Any

import aiohttp
import pytest

from billing_client.contract.csv_cells import rearm
from billing_service.ledger.export import PAGE_RECORDS
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.databases import Server, database
from tests.ledgers import made_up_usage, record_all
from tests.services import running_service

NUMBERED = {"customerId", "service", "unitsConsumed", "pricePerUnit", "eventId", "occurredAt"}


async def export(http: aiohttp.ClientSession, query: str = "", **headers: str) -> bytes:
    async with http.get(f"/usage/export{query}", headers=headers) as response:
        assert response.status == 200
        return await response.read()


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def by_time(record: Any) -> tuple[str, str, str]:
    return record["customerId"], record["occurredAt"].replace("Z", ".000000Z")[:26], record["requestId"]


async def test_all_records_in_order_page_after_page(http: aiohttp.ClientSession) -> None:
    first = await record_all(http, made_up_usage(2 * PAGE_RECORDS + 7, 1, "a"))
    second = await record_all(http, made_up_usage(PAGE_RECORDS, 2, "b/c"))
    await given_customer(http, "without usage")
    exported = lines(await export(http))
    assert sorted(exported, key=by_time) == exported
    assert {r["requestId"]: r for r in exported} == {r["requestId"]: r for r in first + second}
    assert len(exported) == len(first + second)


async def test_filters(http: aiohttp.ClientSession) -> None:
    records = await record_all(http, made_up_usage(200, 1, "a") + made_up_usage(50, 2, "b"))
    asked = "?customerId=a&service=storage&from=2026-03-01T00:00:00Z&to=2026-06-01T00:00:00Z"
    expected = [
        r
        for r in records
        if (r["customerId"], r["service"]) == ("a", "storage") and "2026-03-01" <= r["occurredAt"] < "2026-06-01"
    ]
    assert expected
    assert lines(await export(http, asked)) == sorted(expected, key=by_time)


@pytest.mark.service_alone
async def test_csv_says_the_same(http: aiohttp.ClientSession) -> None:
    await record_all(http, made_up_usage(50, 1))
    for body in (await export(http, "?format=csv"), await export(http, Accept="text/csv;q=0.9, text/html")):
        rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        exported = [
            {"dimensions": ""} | {name: value if value is not None else "" for name, value in r.items()}
            for r in lines(await export(http))
        ]
        assert [{name: value.replace(".000000Z", "Z") for name, value in row.items()} for row in rows] == exported


@pytest.mark.service_alone
async def test_cells_that_a_spreadsheet_would_run_are_disarmed(http: aiohttp.ClientSession) -> None:
    nasty = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", '"quoted", with commas', "plain"]
    for number, text in enumerate(nasty):
        await given_customer(http, text)
        (await post(http, "/usage", usage(customerId=text, service=text, eventId=f"={number}"))).require(201)
    rows = list(csv.DictReader(io.StringIO((await export(http, "?format=csv")).decode(), newline="")))
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert sorted(rearm(row["customerId"]) for row in rows) == sorted(nasty)
    assert sorted(rearm(row["service"]) for row in rows) == sorted(nasty)
    assert sorted(rearm(row["eventId"]) for row in rows) == [f"={number}" for number in range(len(nasty))]


@pytest.mark.service_alone
async def test_gzip_where_asked_for(http: aiohttp.ClientSession) -> None:
    await record_all(http, made_up_usage(500, 1))
    plain = await export(http, **{"Accept-Encoding": "identity"})
    async with aiohttp.ClientSession(http._base_url, auto_decompress=False) as raw:
        async with raw.get("/usage/export", headers={"Accept-Encoding": "br, gzip;q=0.5"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            packed = await response.read()
        async with raw.get("/usage/export", headers={"Accept-Encoding": "gzip;q=0"}) as response:
            assert "Content-Encoding" not in response.headers
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 3


async def test_what_was_exported_can_be_recorded_again(
    http: aiohttp.ClientSession, database_server: Server, template_database: str
) -> None:
    records = await record_all(http, made_up_usage(300, 1))
    await post(http, "/usage", usage(service="without an event id", occurredAt="2026-01-01T00:00:00Z"))
    await post(http, f"/customers/acme/usage/{records[0]['requestId']}/void", {"reason": "wrong"})
    exported = lines(await export(http))
    with (
        database(database_server, template_database) as name,
        running_service(Settings(database_url=database_server.url_of(name))) as empty,
    ):
        async with aiohttp.ClientSession(empty.url) as other:
            await record_all(other, [{name: r[name] for name in NUMBERED if r[name] is not None} for r in exported])
            for record in exported:
                if record["voidedAt"] is not None:
                    path = f"/customers/acme/usage/{record['requestId']}/void"
                    (await post(other, path, {"reason": "wrong"})).require(200)
            again = lines(await export(other))
            path = "/customers/acme/summary?groupBy=service,day"
            assert (await get(other, path)).require(200) == (await get(http, path)).require(200)
    kept = NUMBERED | {"requestId", "amount"}
    assert [{name: r[name] for name in kept} for r in again] == [{name: r[name] for name in kept} for r in exported]


async def test_an_empty_ledger(http: aiohttp.ClientSession) -> None:
    assert await export(http) == b""


@pytest.mark.service_alone
async def test_an_empty_ledger_in_csv(http: aiohttp.ClientSession) -> None:
    assert (await export(http, "?format=csv")).startswith(b"requestId,customerId,service,")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("?format=xlsx", "query/format"),
        ("?from=x", "query/from"),
        ("?limit=3", "query/limit"),
        ("?from=2025-01-01T00:00:01Z&to=2025-01-01T00:00:00Z", "query/to"),
    ],
)
async def test_a_bad_query(shared_http: aiohttp.ClientSession, query: str, pointer: str) -> None:
    (await get(shared_http, f"/usage/export{query}")).problem("validation_error", pointer)


async def test_a_span_that_ends_where_it_begins_holds_nothing(
    shared_http: aiohttp.ClientSession, customer: str
) -> None:
    (await post(shared_http, "/usage", usage(customerId=customer, occurredAt="2025-01-01T00:00:00Z"))).require(201)
    span = "from=2025-01-01T00:00:00Z&to=2025-01-01T00:00:00Z"
    assert (await get(shared_http, f"/customers/{customer}/usage?{span}")).require(200)["data"] == []
    async with shared_http.get(f"/usage/export?customerId={customer}&{span}") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_customer_that_is_not_there(shared_http: aiohttp.ClientSession) -> None:
    (await get(shared_http, "/usage/export?customerId=nobody")).problem("customer_not_found")


@pytest.mark.service_alone
async def test_a_form_that_nobody_has(shared_http: aiohttp.ClientSession) -> None:
    async with shared_http.get("/usage/export", headers={"Accept": "image/png, text/csv;q=0"}) as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (406, "not_acceptable")
