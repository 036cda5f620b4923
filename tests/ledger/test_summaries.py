"""Pagination of summaries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
import pytest

from billing_client.contract.periods import SummaryRequest
from billing_client.contract.request_parsing import BEGINNING, END
from billing_client.contract.wire import CustomerSummary, SummaryGroup, SummaryTotal
from billing_service.database.pool import Connection
from billing_service.ledger.summaries import Position, summarize_customer, summarize_customers
from tests.calls import post
from tests.ledgers import given_rollups, made_up_usage, record_all, summary_request

Member = Literal["service", "hour", "day", "month"]
ALL_TIME = (BEGINNING, END)
SPANS = [ALL_TIME, (datetime(2026, 2, 1, 10, 7, tzinfo=UTC), datetime(2026, 6, 30, 3, 14, tzinfo=UTC))]
BY_SERVICE = summary_request(*ALL_TIME, "service")


@pytest.mark.parametrize("members", [("service",), ("day",), ("service", "hour"), ("service", "month")])
async def test_pages_of_groups_are_the_groups(
    http: aiohttp.ClientSession, connection: Connection, members: Sequence[Member]
) -> None:
    await record_all(http, made_up_usage(120, 3))
    for span in SPANS:
        asked = summary_request(*span, *members, zone="Australia/Lord_Howe")
        whole = await summarize_customer(connection, "acme", asked, 1_000)
        assert whole.next is None
        for limit in (1, 7, len(whole.groups) - 1, len(whole.groups)):
            parts = [await summarize_customer(connection, "acme", asked, limit)]
            while parts[-1].next is not None:
                parts.append(await summarize_customer(connection, "acme", asked, limit, parts[-1].next))
            assert [group for part in parts for group in part.groups] == whole.groups
            assert {len(part.groups) for part in parts[:-1]} <= {limit}
            assert [part.total for part in parts] == [whole.total] * len(parts)


async def test_what_is_voided_between_two_pages_is_on_neither(
    http: aiohttp.ClientSession, connection: Connection
) -> None:
    records = await record_all(http, made_up_usage(3, 1))
    asked = summary_request(*ALL_TIME, "hour")
    first = await summarize_customer(connection, "acme", asked, 1)
    last = max(records, key=lambda record: str(record["occurredAt"]))
    await post(http, f"/customers/acme/usage/{last['requestId']}/void", {"reason": "wrong"})
    second = await summarize_customer(connection, "acme", asked, 1, first.next)
    assert (len(second.groups), second.next, second.total.records) == (1, None, 2)


Page = list[CustomerSummary[str]]


async def pages(connection: Connection, asked: SummaryRequest, limit: int, **bounds: Any) -> list[Page]:
    page, end = await summarize_customers(connection, asked, limit, **bounds)
    found = [page]
    while end is not None:
        page, end = await summarize_customers(connection, asked, limit, end, **bounds)
        found.append(page)
    return found


def sizes(found: list[Page]) -> list[list[tuple[str, int]]]:
    """The customers of each page, and of how many groups they are."""
    return [[(each.customer_id, len(each.groups)) for each in page] for page in found]


async def test_a_customer_that_does_not_fit_begins_the_next_page(connection: Connection) -> None:
    await given_rollups(connection, customers=5, services=3, days=1)
    found = await pages(connection, BY_SERVICE, 100, max_groups=7)
    assert sizes(found) == [[("c0001", 3), ("c0002", 3)], [("c0003", 3), ("c0004", 3)], [("c0005", 3)]]
    assert sizes(await pages(connection, BY_SERVICE, 100, max_groups=6)) == sizes(found)
    assert sizes(await pages(connection, BY_SERVICE, 4)) == [
        [(f"c000{number}", 3) for number in (1, 2, 3, 4)],
        [("c0005", 3)],
    ]
    assert len(await pages(connection, BY_SERVICE, 5)) == 1


async def test_a_customer_that_fits_no_page_is_continued(connection: Connection) -> None:
    await given_rollups(connection, customers=3, services=2, days=1)
    await connection.execute("""
        INSERT INTO usage_rollups
        SELECT 'c0002', 180, timestamptz '2026-01-02Z', 'service ' || n, 1, 2, 3 FROM generate_series(2, 9) n
    """)
    found = await pages(connection, BY_SERVICE, 100, max_groups=4)
    assert sizes(found) == [[("c0001", 2)], [("c0002", 4)], [("c0002", 4)], [("c0002", 1), ("c0003", 2)]]
    parts = [each for page in found for each in page if each.customer_id == "c0002"]
    services = [group.service for part in parts for group in part.groups]
    assert services == sorted(f"service {number}" for number in range(1, 10))
    assert {part.total for part in parts} == {SummaryTotal(records=10, units=None, amount="30")}
    repeated = parts[0].groups[1]
    assert repeated == SummaryGroup(service="service 2", records=2, units="4", amount="6")


async def test_a_page_ends_after_its_time(connection: Connection) -> None:
    await given_rollups(connection, customers=3, services=1, days=1)
    assert sizes(await pages(connection, BY_SERVICE, 100, seconds=0)) == [[(f"c000{n}", 1)] for n in (1, 2, 3)]


async def test_a_position_within_another_customer_shows_nothing_of_it(connection: Connection) -> None:
    await given_rollups(connection, customers=2, services=3, days=1)
    _, end = await summarize_customers(connection, BY_SERVICE, 1, max_groups=1)
    assert end is not None
    assert (end.customer_id, end.group is None) == ("c0001", False)
    page, _ = await summarize_customers(connection, BY_SERVICE, 5, end, only="c0002")
    assert sizes([page]) == [[("c0002", 3)]]
    page, _ = await summarize_customers(connection, BY_SERVICE, 5, Position("c0002", end.group), only="c0001")
    assert page == []
