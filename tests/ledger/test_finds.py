"""Records are found without their customer: by request id, and by event id."""

from typing import Any

import aiohttp
import asyncpg

from billing_service.ledger.finds import Found, find_anywhere, find_records, read_details
from tests.calls import given_customer, key, post, usage

EVENT = 'job/1 "é\\ \u2028 😀'  # the database has to write it into the hash as the client does


async def test_a_record_is_found_by_each_of_its_ids(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    records: dict[str, Any] = {}
    for customer in ("acme", "zenith"):
        await given_customer(http, customer)
        report = usage(customerId=customer, eventId=EVENT)
        records[customer] = (await post(http, "/usage", report, key("a call"))).require(201)
    ids = {customer: record["requestId"] for customer, record in records.items()}
    both = [Found("acme", ids["acme"]), Found("zenith", ids["zenith"])]
    of_zenith = bytes.fromhex(ids["zenith"])
    assert await find_records(connection, of_zenith, None) == both[1:]
    assert await find_records(connection, None, EVENT) == both
    assert await find_records(connection, of_zenith, EVENT) == both, "each once"
    assert await find_records(connection, None, EVENT, only="zenith") == both[1:]
    assert await find_records(connection, of_zenith, None, only="acme") == []
    assert await find_records(connection, bytes(32), "job/2") == []
    found = await find_anywhere(connection, of_zenith)
    assert found is not None
    assert found.customer_id == "zenith"
    assert await find_anywhere(connection, bytes(32)) is None
    details = await read_details(connection, "acme", bytes.fromhex(ids["acme"]))
    assert details is not None
    assert (details.idempotency_key, details.record.event_id) == ("a call", EVENT)
    assert await read_details(connection, "acme", bytes(32)) is None
