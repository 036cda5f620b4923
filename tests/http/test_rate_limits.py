"""Rate limits: what is counted for whom, the response at a limit, and a shared store."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from billing_client import BillingSystemClient, RateLimitedError
from billing_service.http.limits.standings import address_of
from billing_service.settings import Settings
from tests.calls import Answer, get, given_customer, send, stored, usage
from tests.keys import bearer, given_key
from tests.redis_servers import needs_redis, running_redis
from tests.services import free_port, running_service, serve_process

STANDING = re.compile(r'"([a-z-]+)";r=(\d+);t=(\d+)')


@asynccontextmanager
async def limited(database_url: str, **settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a service with these settings."""
    with running_service(Settings(database_url=database_url, **settings)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            yield http


def standing(answer: Answer) -> dict[str, int]:
    """How much is left of each limit that was asked."""
    found = {name: int(left) for name, left, _ in STANDING.findall(answer.headers["RateLimit"])}
    policies = answer.headers["RateLimit-Policy"]
    assert set(re.findall(r'"([a-z]+-[a-z]+)";q=', policies)) == set(found)
    return found


def refused(answer: Answer, policy: str) -> int:
    """The seconds after which an answer that refuses says to come back."""
    assert policy.partition("-")[0] in answer.problem("rate_limited")["detail"]
    wait = int(answer.headers["Retry-After"])
    assert wait >= 1
    name, left, seconds = STANDING.findall(answer.headers["RateLimit"])[-1]
    assert (name, int(seconds)) == (policy, wait)
    assert int(left) >= 0
    return wait


async def test_without_limits_nothing_is_said_of_them(http: aiohttp.ClientSession) -> None:
    answer = await get(http, "/customers")
    assert "RateLimit" not in answer.headers
    assert "RateLimit-Policy" not in answer.headers


async def test_requests_are_counted_for_each_key(database_url: str) -> None:
    keys = [await given_key(database_url, "admin") for _ in range(2)]
    async with limited(database_url, requests_per_key="3/h") as http:
        for left in (2, 1, 0):
            answer = await send(http, "GET", "/customers", headers=bearer(keys[0]))
            answer.require(200)
            assert answer.headers["RateLimit-Policy"] == '"key-requests";q=3;w=3600'
            assert standing(answer) == {"key-requests": left}
        wait = refused(await send(http, "GET", "/summary", headers=bearer(keys[0])), "key-requests")
        assert 0 < wait <= 1200
        (await send(http, "GET", "/customers", headers=bearer(keys[1]))).require(200)
        (await get(http, "/customers")).require(200)  # without a key no key's limit counts


async def test_a_bucket_fills_up_again(database_url: str) -> None:
    key = await given_key(database_url, "admin")
    async with limited(database_url, requests_per_key="1/s") as http:
        deadline = time.monotonic() + 60
        while (answer := await send(http, "GET", "/customers", headers=bearer(key))).status == 200:
            assert time.monotonic() < deadline, "it was never refused"
        await asyncio.sleep(refused(answer, "key-requests"))
        (await send(http, "GET", "/customers", headers=bearer(key))).require(200)


async def test_an_error_counts_and_tells_where_the_caller_stands(database_url: str) -> None:
    key = await given_key(database_url, "admin")
    async with limited(database_url, requests_per_key="2/h") as http:
        answer = await send(http, "GET", "/customers/nobody", headers=bearer(key))
        answer.problem("customer_not_found")
        assert standing(answer) == {"key-requests": 1}
        answer = await send(http, "POST", "/usage", {}, bearer(key))
        assert (answer.status, standing(answer)) == (400, {"key-requests": 0})


async def test_who_guesses_keys_is_counted_by_address(database_url: str) -> None:
    async with limited(database_url, env="production", requests_per_address="3/h") as http:
        for left in (2, 1, 0):
            answer = await send(http, "GET", "/customers", headers=bearer(f"bk_{left:016x}_{'0' * 64}"))
            answer.problem("unauthenticated")
            assert standing(answer) == {"address-requests": left}
        key = await given_key(database_url, "admin")
        refused(await send(http, "GET", "/customers", headers=bearer(key)), "address-requests")
        for path in ("/healthz", "/readyz", "/openapi.json"):
            (await get(http, path)).require(200)


async def test_records_are_counted_one_by_one_and_in_batches(database_url: str) -> None:
    key = await given_key(database_url, "admin")
    async with limited(database_url, records_per_key="10000/d", records_per_address="20000/d") as http:
        await given_customer(http)
        answer = await send(http, "POST", "/usage", usage(), bearer(key))
        answer.require(201)
        assert standing(answer) == {"address-records": 19_999, "key-records": 9_999}
        assert answer.headers["RateLimit-Policy"] == (
            '"address-records";q=20000;qu="records";w=86400, "key-records";q=10000;qu="records";w=86400'
        )
        records = [usage(eventId=f"{number}") for number in range(6_000)]
        answer = await send(http, "POST", "/usage/batch?dryRun=true", {"records": records}, bearer(key))
        answer.require(200)
        assert standing(answer)["key-records"] in range(3_999, 4_100)
        answer = await send(http, "POST", "/usage/batch", {"records": records}, bearer(key))
        refused(answer, "key-records")
        assert len(await stored(http, "acme")) == 1
        (await send(http, "POST", "/usage", usage(eventId="one"), bearer(key))).require(201)


async def test_the_client_waits_and_comes_back(database_url: str) -> None:
    async with limited(database_url, requests_per_address="1/s") as http:
        async with BillingSystemClient(base_url=str(http._base_url), timeout=60, max_attempts=50) as client:
            for number in range(3):
                await client.create_customer(name=f"{number}")
        async with BillingSystemClient(base_url=str(http._base_url), max_attempts=1) as client:
            with pytest.raises(RateLimitedError):
                await asyncio.gather(*(client.create_customer(name="Acme") for _ in range(10)))


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("a name", "a name"),
    ],
)
def test_one_address_of_ipv6_is_a_whole_network(host: str, network: str) -> None:
    assert address_of(host) == network


async def test_the_address_is_the_peers_unless_a_trusted_proxy_names_another(tmp_path: Path, database_url: str) -> None:
    limits = {"BILLING_REQUESTS_PER_ADDRESS": "2/h"}
    for trusted, status in (({}, 429), ({"BILLING_TRUSTED_PROXIES": "192.0.2.0/24,127.0.0.1"}, 200)):
        with serve_process(tmp_path, database_url, environment=limits | trusted) as served:
            async with aiohttp.ClientSession(served.url) as http:
                answers = [
                    (await send(http, "GET", "/customers", headers={"X-Forwarded-For": f"198.51.100.{number}"})).status
                    for number in range(3)
                ]
                assert answers == [200, 200, status]
                forwarded = {"X-Forwarded-For": "198.51.100.9"}
                again = [(await send(http, "GET", "/customers", headers=forwarded)).status for _ in range(3)]
                assert again[2] == 429


@needs_redis
async def test_processes_with_a_store_count_together_and_go_on_without_it(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = Settings(database_url=database_url, requests_per_address="50/d", rate_limit_store=url)

    async def left(http: aiohttp.ClientSession) -> int:
        return standing(await get(http, "/customers"))["address-requests"]

    with running_service(settings) as one, running_service(settings) as other:
        async with aiohttp.ClientSession(one.url) as http, aiohttp.ClientSession(other.url) as elsewhere:
            with running_redis(tmp_path, port):
                assert [await left(each) for _ in range(5) for each in (http, elsewhere)] == list(range(49, 39, -1))
            assert [await left(each) for _ in range(2) for each in (http, elsewhere)] == [49, 49, 48, 48]
            with running_redis(tmp_path, port):
                deadline, before = time.monotonic() + 60, 48
                while (now := await left(http)) < before:  # until the store is asked again, which has forgotten all
                    assert time.monotonic() < deadline, "the store was not asked again"
                    before = now
                    await asyncio.sleep(2)
