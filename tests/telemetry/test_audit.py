"""The audit log: who voided a record, and who issued a statement."""

import logging

import aiohttp
import pytest

from tests.calls import given_customer, post, usage
from tests.keys import bearer, given_key, id_of
from tests.services import Service


def audited(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """What was said, of which customer, and who did it."""
    lines = [record.__dict__ for record in caplog.records if record.name == "billing_service.audit"]
    return [(line["msg"], line["customer_id"], line["by"]) for line in lines]


async def test_each_void_has_one_line_with_who_and_of_which_customer(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = await given_key(service.settings.database_url, "admin")
    async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
        await given_customer(http)
        record = (await post(http, "/usage", usage(eventId="1"))).require(201)
        for _ in range(2):  # the second void changes nothing
            path = f"/customers/acme/usage/{record['requestId']}/void"
            (await post(http, path, {"reason": "a test"})).require(200)
    assert audited(caplog) == [("usage voided", "acme", f"bk_{id_of(key)}")]


async def test_each_statement_that_is_issued_has_one_line(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    key = await given_key(service.settings.database_url, "admin")
    async with aiohttp.ClientSession(service.url, headers=bearer(key)) as http:
        await given_customer(http)
        await given_customer(http, "other")
        for customer in ("acme", "other"):
            report = usage(customerId=customer, eventId="1", occurredAt="2026-01-02T03:04:05Z")
            (await post(http, "/usage", report)).require(201)
        new = {"month": "2026-01", "timezone": "Europe/Berlin"}
        (await post(http, "/customers/acme/statements", new)).require(201)
        assert (await post(http, "/statements", new)).require(200)["unchanged"] == 1
    by = f"bk_{id_of(key)}"
    assert audited(caplog) == [("statement issued", "acme", by), ("statement issued", "other", by)]
    line = next(record.__dict__ for record in caplog.records if record.name == "billing_service.audit")
    assert (line["number"], line["month"], line["timezone"]) == (1, "2026-01", "Europe/Berlin")
