"""Records are found without their customer: by request id, and by event id."""

from typing import Any

import aiohttp
import asyncpg

from billing_service.ledger.finds import Found, find_by_event_id, find_by_request_id, read_details
from tests.calls import given_customer, key, post, usage


async def test_a_record_is_found_by_each_of_its_ids(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    records: dict[str, Any] = {}
    for customer in ("acme", "zenith"):
        await given_customer(http, customer)
        report = usage(customerId=customer, eventId="job/1")
        records[customer] = (await post(http, "/usage", report, key("a call"))).require(201)
    ids = {customer: record["requestId"] for customer, record in records.items()}
    assert await find_by_request_id(connection, bytes.fromhex(ids["zenith"])) == Found("zenith", ids["zenith"])
    assert await find_by_request_id(connection, bytes(32)) is None
    assert await find_by_event_id(connection, "job/1") == [Found("acme", ids["acme"]), Found("zenith", ids["zenith"])]
    assert await find_by_event_id(connection, "job/1", only="zenith") == [Found("zenith", ids["zenith"])]
    assert await find_by_event_id(connection, "job/2") == []
    details = await read_details(connection, "acme", bytes.fromhex(ids["acme"]))
    assert details is not None
    assert (details.idempotency_key, details.record.event_id) == ("a call", "job/1")
    assert await read_details(connection, "acme", bytes(32)) is None
