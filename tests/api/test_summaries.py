"""Summaries that do not fit on a page."""

from datetime import UTC, datetime

import aiohttp
import pytest

from billing_client.contract.request_parsing import BEGINNING, END
from billing_service.database.pool import Connection
from billing_service.http.cursors import write_cursor
from tests.calls import get, post
from tests.ledgers import given_rollups, summary_request


async def test_more_services_than_fit_on_a_page(http: aiohttp.ClientSession, connection: Connection) -> None:
    await given_rollups(connection, customers=1, services=50_001, days=1)
    path = "/customers/c0001/summary?groupBy=service"
    first = (await get(http, path)).require(200)
    second = (await get(http, f"{path}&cursor={first['nextCursor']}")).require(200)
    assert (len(first["groups"]), len(second["groups"]), second["nextCursor"]) == (50_000, 1, None)
    services = [group["service"] for group in first["groups"] + second["groups"]]
    assert services == sorted(f"service {number}" for number in range(1, 50_002))
    assert first["total"] == second["total"] == {"records": 50_001, "units": None, "amount": "150003"}


async def test_more_groups_of_all_customers_than_fit_on_a_page(
    http: aiohttp.ClientSession, connection: Connection
) -> None:
    await given_rollups(connection, customers=3, services=25_000, days=1)
    pages = [(await get(http, "/summary?groupBy=service")).require(200)]
    while cursor := pages[-1]["nextCursor"]:  # a page ends early if it takes long
        pages.append((await get(http, f"/summary?groupBy=service&cursor={cursor}")).require(200))
    assert [(each["customerId"], len(each["groups"])) for page in pages for each in page["data"]] == [
        (f"c000{number}", 25_000) for number in (1, 2, 3)
    ]
    assert all(sum(len(each["groups"]) for each in page["data"]) <= 50_000 for page in pages)
    assert len(pages) > 1


@pytest.mark.parametrize(
    ("position", "status"),
    [
        ([BEGINNING, "service 1"], 200),
        ([END, "service 1"], 200),
        (["0001-01-01T00:00:00+14:00", "service 1"], 200),
        (["9999-12-31T23:59:59-14:00", "service 1"], 200),
        ([datetime(2026, 1, 1, tzinfo=UTC), None], 200),
        ([datetime(2026, 1, 1, tzinfo=UTC), "a\0"], 400),
        (["2026-01-01T00:00:00", "service 1"], 400),
        (["2026-01-01T00:00:00Z"], 400),
    ],
)
async def test_a_cursor_that_was_made_up(
    shared_http: aiohttp.ClientSession, position: list[object], status: int
) -> None:
    await post(shared_http, "/customers", {"id": "acme", "name": "Acme"})
    asked = summary_request(BEGINNING, END, "service", "day")
    for path, scope, end in (
        ("/customers/acme/summary", f"summary acme {asked}", position),
        ("/summary", f"summary {asked}", ["acme", position]),
    ):
        answer = await get(shared_http, f"{path}?groupBy=service,day&cursor={write_cursor(scope, end)}")
        assert answer.status == status, answer
