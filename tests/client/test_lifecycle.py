"""The life of a client: made anywhere, used in one loop, closed once."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from billing_client import BillingSystemClient, TransportError, UsageRecord
from tests.client.answers import USAGE, client_of, problem, recorded
from tests.client.misbehaving import misbehaving, silent
from tests.services import Service


def test_a_client_made_outside_a_loop_works(service: Service) -> None:
    client = BillingSystemClient(base_url=service.url)

    async def use() -> str:
        async with client:
            return (await client.create_customer(name="Acme", customer_id="acme")).id

    assert asyncio.run(use()) == "acme"


def test_a_client_that_is_never_used_needs_no_closing() -> None:
    BillingSystemClient(base_url="http://127.0.0.1:3000")
    gc.collect()  # what was left open would warn, and a warning is an error here


def test_a_client_is_refused_in_a_second_loop(service: Service) -> None:
    client = BillingSystemClient(base_url=service.url)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(client.create_customer(name="Acme", customer_id="acme")).id == "acme"
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(client.get_customer(customer_id="acme"))
        assert first.run(client.get_customer(customer_id="acme")).name == "Acme"
        first.run(client.close())


CALLS: dict[str, Callable[[BillingSystemClient], Coroutine[Any, Any, object]]] = {
    "record_usage": lambda client: client.record_usage(**USAGE),
    "get_usage": lambda client: client.get_usage(customer_id="acme", request_id="ab" * 32),
    "create_customer": lambda client: client.create_customer(name="Acme"),
    "get_customer": lambda client: client.get_customer(customer_id="acme"),
    "update_customer": lambda client: client.update_customer(customer_id="acme", name="Acme"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_closed_client_refuses_to_work(name: str) -> None:
    async with misbehaving(recorded()) as server:
        async with client_of(server) as client:
            await client.record_usage(**USAGE)
        with pytest.raises(RuntimeError, match="closed"):
            await CALLS[name](client)
    assert len(server.requests) == 1


async def test_closing_twice_is_closing() -> None:
    async with misbehaving(recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
        await client.close()
        await server.wait_until_alone()
        await client.close()


async def test_an_error_in_the_block_closes_the_client_too() -> None:
    async def use() -> None:
        async with client:
            await client.record_usage(**USAGE)
            raise LookupError

    async with misbehaving(recorded()) as server:
        client = client_of(server)
        with pytest.raises(LookupError):
            await use()
        await server.wait_until_alone()
        with pytest.raises(RuntimeError, match="closed"):
            await client.record_usage(**USAGE)


async def outcome_of(task: "asyncio.Task[UsageRecord]") -> tuple[type[BaseException] | None, str | None]:
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, BaseException)
    return type(result), getattr(result, "outcome", None)


async def test_closing_ends_the_calls_under_way_with_an_error_of_the_client() -> None:
    async with misbehaving(silent) as server, client_of(server, max_connections=1) as client:
        sent = asyncio.create_task(client.record_usage(**USAGE))
        await server.wait_for_requests(1)
        waiting = asyncio.create_task(client.record_usage(**USAGE))
        await asyncio.sleep(0.05)
        await client.close()
        assert await outcome_of(sent) == (TransportError, "unknown")
        assert await outcome_of(waiting) == (TransportError, "not_sent")
    assert len(server.requests) == 1


async def test_closing_ends_a_call_that_waits_to_be_made_again() -> None:
    busy = problem(429, "rate_limited", retry_after="1")
    async with misbehaving(busy) as server, client_of(server) as client:
        task = asyncio.create_task(client.record_usage(**USAGE))
        await server.wait_for_requests(1)
        await asyncio.sleep(0.05)
        await client.close()
        assert await outcome_of(task) == (TransportError, "rejected")
    assert len(server.requests) == 1
