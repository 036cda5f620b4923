"""What the client reads of a ledger: summaries, exports, voids."""

import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing_client import (
    BillingSystemClient,
    CustomerNotFoundError,
    TransportError,
    UnexpectedResponseError,
    Usage,
    UsageNotFoundError,
    ValidationError,
)
from billing_client._transport import MAX_LINE_BYTES
from billing_service.database.pool import Connection
from tests.client.answers import STORED, client_of
from tests.client.misbehaving import answer, disconnect, misbehaving, raw
from tests.ledgers import given_rollups
from tests.services import Service

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def filled(service: Service) -> BillingSystemClient:
    """A client of a service with two customers and forty uses."""
    client = BillingSystemClient(base_url=service.url)
    for customer_id in ("a/b", "c"):
        await client.create_customer(customer_id=customer_id, name="Name")
    usages = [
        Usage(
            customer_id=("a/b", "c")[number % 2],
            service=("compute", "storage")[number // 2 % 2],
            units_consumed=number,
            price_per_unit=Decimal("0.000000000000000001"),
            event_id=str(number),
            occurred_at=DAY + timedelta(hours=number),
        )
        for number in range(40)
    ]
    assert [outcome.outcome async for outcome in client.record_usages(usages)] == ["recorded"] * 40
    return client


async def test_a_summary(filled: BillingSystemClient) -> None:
    async with filled as client:
        summary = await client.summary(
            customer_id="a/b",
            start=DAY,
            end=DAY + timedelta(hours=24),
            group_by=["service", "day"],
            timezone="Asia/Tokyo",
        )
        assert [(g.service, g.day, g.records) for g in summary.groups] == [
            ("compute", "2026-03-01", 4),
            ("storage", "2026-03-01", 4),
            ("compute", "2026-03-02", 2),
            ("storage", "2026-03-02", 2),
        ]
        assert summary.total.records == 12
        assert summary.total.units is None  # of two services
        assert sum(group.units or 0 for group in summary.groups) == sum(range(0, 24, 2))
        assert summary.total.amount == Decimal("132E-18")
        assert (summary.from_, summary.timezone, summary.currency) == (DAY, "Asia/Tokyo", "USD")
        with pytest.raises(CustomerNotFoundError):
            await client.summary(customer_id="nobody")
        with pytest.raises(ValidationError, match="timezone"):
            await client.summary(customer_id="c", timezone="Mars")


async def test_summaries_of_all_customers(filled: BillingSystemClient) -> None:
    async with filled as client:
        summaries = [summary async for summary in client.summaries(group_by=["service"], page_size=1)]
    assert [(s.customer_id, s.total.records, len(s.groups)) for s in summaries] == [("a/b", 20, 2), ("c", 20, 2)]


async def test_summaries_of_more_groups_than_fit_on_a_page(service: Service, connection: Connection) -> None:
    await given_rollups(connection, customers=1_000, services=2, days=30)
    async with BillingSystemClient(base_url=service.url) as client:
        found = [each async for each in client.summaries(group_by=["service", "day"], page_size=1_000)]
    assert [each.customer_id for each in found] == [f"c{number:04}" for number in range(1, 1_001)]
    assert {(len(each.groups), each.total.records) for each in found} == {(60, 60)}


async def test_a_customer_with_more_groups_than_fit_on_a_page(service: Service, connection: Connection) -> None:
    await given_rollups(connection, customers=1, services=50_001, days=1)
    async with BillingSystemClient(base_url=service.url) as client:
        one = await client.summary(customer_id="c0001", group_by=["service"])
        (same,) = [each async for each in client.summaries(group_by=["service"])]
    assert len({group.service for group in one.groups}) == one.total.records == 50_001
    assert (same.groups, same.total, one.next_cursor) == (one.groups, one.total, None)


async def test_an_export(filled: BillingSystemClient) -> None:
    async with filled as client:
        exported = [record async for record in client.export_usage()]
        assert [r.event_id for r in exported] == [str(n) for n in (*range(0, 40, 2), *range(1, 40, 2))]
        listed = [record async for record in client.usage(customer_id="c")]
        assert [r async for r in client.export_usage(customer_id="c")] == listed
        some = client.export_usage(customer_id="c", service="storage", end=DAY + timedelta(hours=8))
        assert [r.event_id async for r in some] == ["3", "7"]
        async with aclosing(client.export_usage()) as export:  # who stops early leaves nothing behind
            assert (await anext(export)).event_id == "0"
        with pytest.raises(CustomerNotFoundError):
            [r async for r in client.export_usage(customer_id="nobody")]


async def test_half_a_character_in_a_filter_is_refused_here(filled: BillingSystemClient) -> None:
    async with filled as client:
        for listing in (client.usage(customer_id="c", service="\ud83d"), client.export_usage(customer_id="\ud83d")):
            with pytest.raises(ValidationError, match="UTF-8"):
                await anext(listing)


async def test_a_void(filled: BillingSystemClient) -> None:
    async with filled as client:
        record = await anext(client.usage(customer_id="a/b"))
        voided = await client.void_usage(
            customer_id="a/b", request_id=record.request_id, reason="test", voided_for="Ada"
        )
        assert (voided.void_reason, voided.voided_for, voided.event_id) == ("test", "Ada", record.event_id)
        assert voided.voided_at is not None
        assert await client.void_usage(customer_id="a/b", request_id=record.request_id, reason="again") == voided
        assert (await client.get_usage(customer_id="a/b", request_id=record.request_id)).voided_at == voided.voided_at
        assert (await client.summary(customer_id="a/b")).total.records == 19
        with pytest.raises(UsageNotFoundError):
            await client.void_usage(customer_id="c", request_id=record.request_id, reason="not theirs")
        with pytest.raises(ValidationError, match="/reason") as refused:
            await client.void_usage(customer_id="c", request_id=record.request_id, reason="")
        assert refused.value.outcome == "not_sent"


LINE = json.dumps(STORED).encode() + b"\n"
NDJSON = "application/x-ndjson"


async def test_a_stream_that_breaks_off_is_no_end() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 9999\r\n\r\n"
    async with misbehaving(raw(head + LINE * 3)) as server, client_of(server) as client:
        export = client.export_usage()
        for _ in range(3):
            assert (await anext(export)).event_id == STORED["eventId"]
        with pytest.raises(TransportError, match="the stream broke"):
            await anext(export)


async def test_a_stream_is_asked_for_until_it_begins() -> None:
    async with (
        misbehaving(disconnect, answer(503), answer(200, LINE * 2, Content_Type=NDJSON)) as server,
        client_of(server) as client,
    ):
        assert len([record async for record in client.export_usage()]) == 2


@pytest.mark.parametrize("length", [300_000, 10_000_000])
async def test_a_line_of_a_stream_has_a_bound(length: int) -> None:
    long = LINE.replace(b"{", b"{" + b" " * length, 1)
    async with misbehaving(answer(200, LINE + long + LINE, Content_Type=NDJSON)) as server, client_of(server) as client:
        export = client.export_usage()
        await anext(export)
        if length < MAX_LINE_BYTES:
            assert [record.event_id async for record in export] == [STORED["eventId"]] * 2
        else:
            with pytest.raises(UnexpectedResponseError, match="a line of the stream is longer than") as caught:
                await anext(export)
            assert caught.value.outcome == "unknown"


async def test_the_lines_of_a_stream_are_those_that_were_sent() -> None:
    body = b"a\n\nb\r\n" + b"c" * 200_000 + b"\n"
    async with misbehaving(answer(200, body, Content_Type=NDJSON)) as server, client_of(server) as client:
        assert [line async for line in client.export_lines()] == body.splitlines(keepends=True)


async def test_a_line_that_is_no_record() -> None:
    async with (
        misbehaving(answer(200, LINE + b'{"requestId": 1}\n', Content_Type=NDJSON)) as server,
        client_of(server) as client,
    ):
        export = client.export_usage()
        await anext(export)
        with pytest.raises(UnexpectedResponseError, match="a line of the stream is not"):
            await anext(export)
