"""Refusals and events, as the client reads them."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from billing_client import BillingSystemClient, PermissionDeniedError, ServiceEvent, ValidationError
from billing_client.blocking import BillingClient
from billing_service.settings import Settings
from tests.calls import post, usage
from tests.faults.proxy import Proxy
from tests.keys import given_key, given_stored_customer
from tests.services import Service, running_service


async def test_refusals_and_their_counts(
    shared_service: Service, shared_http: aiohttp.ClientSession, customer: str
) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    async with BillingSystemClient(base_url=shared_service.url) as client:
        async with aclosing(client.events(customer_id=customer)) as events:
            async for event in events:
                if event.kind == "reset":
                    records = [usage(customerId=customer, eventId=str(n), service="") for n in range(5)]
                    (await post(shared_http, "/usage/batch", {"records": records})).require(200)
                elif event.kind == "refusals":
                    break
        found = [each async for each in client.refusals(customer_id=customer, start=since, page_size=2)]
        assert [each.event_id for each in found] == ["4", "3", "2", "1", "0"]
        assert [error.pointer for error in found[0].errors or []] == ["/service"]
        assert found[0].refused_at > since
        for filters, count in (({"event_id": "3"}, 1), ({"end": since}, 0), ({"code": "event_id_conflict"}, 0)):
            assert len([each async for each in client.refusals(customer_id=customer, **filters)]) == count
        (counted,) = await client.refusal_counts(customer_id=customer)
        assert (counted.code, counted.refusals, counted.submitted_by) == ("validation_error", 5, None)
        with pytest.raises(ValidationError):
            [each async for each in client.refusals(key="bk_1")]
    with BillingClient(base_url=shared_service.url) as blocking:
        assert await asyncio.to_thread(list, blocking.refusals(customer_id=customer)) == found


async def test_events_go_on_where_the_connection_broke(
    shared_service: Service, shared_http: aiohttp.ClientSession, customer: str
) -> None:
    async def record(event_id: str) -> None:
        (await post(shared_http, "/usage", usage(customerId=customer, eventId=event_id))).require(201)

    async with (
        Proxy((shared_service.host, shared_service.port)) as proxy,
        BillingSystemClient(base_url=f"http://127.0.0.1:{proxy.port}") as client,
    ):
        async with aclosing(client.events(customer_id=customer)) as events:
            assert (await anext(events)).kind == "reset"
            for n in range(3):
                await record(str(n))
                event = await anext(events)
                assert (event.kind, event.customer_ids, event.more) == ("totals", [customer], False)
                proxy.reset_all()
        async with aclosing(client.events(customer_id=customer, last_event_id=event.last_event_id)) as events:
            await record("last")
            assert (await anext(events)).kind == "totals"


async def test_events_that_a_key_may_not_see(database_url: str) -> None:
    with running_service(Settings(database_url=database_url, env="production")) as service:
        await given_stored_customer(database_url, "acme")
        writer = await given_key(database_url, "usage:write")
        bound = await given_key(database_url, "usage:read", customer_id="acme")
        for key in (writer, bound):
            async with BillingSystemClient(base_url=service.url, api_key=key) as client:
                with pytest.raises(PermissionDeniedError):
                    await anext(client.events(customer_id="another"))


def test_events_without_asyncio(shared_service: Service) -> None:
    with BillingClient(base_url=shared_service.url) as client:
        events = client.events()
        first = next(events)
        assert (first.kind, first.customer_ids) == ("reset", [])
        assert isinstance(first, ServiceEvent)
        events.close()
