"""Rate limits: requests and records per API key and per client address, as token buckets.

The buckets are those of throttled-py (GCRA: a token bucket that is stored as one timestamp). They are kept in this
process, or in a Redis that several processes share. While that Redis does not answer, each process counts by itself.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import ceil
from typing import Any, NamedTuple

from throttled.asyncio import MemoryStore, RateLimiterType, RateLimitResult, RedisStore, Throttled, rate_limiter
from throttled.exceptions import StoreUnavailableError

from billing_service.http.errors import ProblemError, problem
from billing_service.settings import Rate, Settings

_log = logging.getLogger(__name__)
MAX_BUCKETS = 100_000  # 300 bytes each; the least recently used one is dropped first
STORE_SECONDS = 0.5  # timeout of a call to Redis
RETRY_STORE_SECONDS = 5.0  # how long Redis is not asked after it did not answer


class _Policy(NamedTuple):
    """One limit. `item` is its entry in the `RateLimit-Policy` header."""

    name: str
    rate: Rate
    item: str
    shared: Throttled | None
    own: Throttled


class Standing(NamedTuple):
    """How much of one limit a caller has left, as header items (draft-ietf-httpapi-ratelimit-headers-11).

    Attributes:
        policy: The item of `RateLimit-Policy`.
        left: The item of `RateLimit`: `r` tokens are left. In `t` seconds there are more, or enough after a refusal.
    """

    policy: str
    left: str


def rate_limit_headers(standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """The headers that tell a caller what it has left of the limits it was counted against."""
    policies, left = (", ".join(items).encode() for items in zip(*standings, strict=True))
    return [(b"ratelimit-policy", policies), (b"ratelimit", left)]


class RateLimits:
    """The configured limits. Requests and records are counted before any other work, so a refusal costs little.

    Each `count_` method appends what the caller has left to `standings`, and raises ProblemError (429) if a limit is
    used up.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = _shared_store(settings.rate_limit_store)
        self._store_down_until = 0.0
        own_store = MemoryStore(options={"MAX_SIZE": MAX_BUCKETS})
        self._policies = {
            name: _policy(name, rate, self._store, own_store) for name, rate in settings.rates.items() if rate
        }

    async def count_request_of_address(self, address: str, standings: list[Standing]) -> None:
        """Count a request from an address (see `address_of`), before its key is looked up."""
        await self._take("address-requests", address, 1, standings)

    async def count_request_of_key(self, key_id: str | None, standings: list[Standing]) -> None:
        """Count a request made with an API key; without a key (None) nothing is counted."""
        await self._take("key-requests", key_id, 1, standings)

    async def count_records(self, address: str, key_id: str | None, records: int, standings: list[Standing]) -> None:
        """Count the records of a request, whatever their outcome. If it raises, none of them may be recorded.

        Args:
            address: The client's address (see `address_of`).
            key_id: The id of the API key; None if the request has none.
            records: How many records the request holds.
            standings: The list to append to.
        """
        await self._take("address-records", address, records, standings)
        await self._take("key-records", key_id, records, standings)

    async def close(self) -> None:
        """Close the connections to the shared store."""
        if self._store is not None:
            client: Any = self._store._backend.get_client()  # noqa: SLF001 - the library has no way to close it
            await client.aclose()
            await client.connection_pool.disconnect()

    async def _take(self, name: str, subject: str | None, cost: int, standings: list[Standing]) -> None:
        policy = self._policies.get(name)
        if policy is None or subject is None or cost == 0:
            return
        result = await self._limit(policy, f"{name}:{subject}", cost)
        wait = max(1, ceil(result.state.retry_after if result.limited else policy.rate.seconds / policy.rate.quota))
        standings.append(Standing(policy.item, f'"{name}";r={result.state.remaining};t={wait}'))
        if result.limited:
            kind = "API key" if name.startswith("key") else "address"
            detail = f"This {kind} has used up its {policy.rate.quota} {policy.rate.unit} in {policy.rate.seconds} s."
            raise ProblemError(problem("rate_limited", detail), {"Retry-After": str(wait)})

    async def _limit(self, policy: _Policy, key: str, cost: int) -> RateLimitResult:
        if policy.shared is not None and time.monotonic() >= self._store_down_until:
            with self._falling_back_to_own():
                return await policy.shared.limit(key, cost)
        return await policy.own.limit(key, cost)

    @contextmanager
    def _falling_back_to_own(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailableError as error:
            self._store_down_until = time.monotonic() + RETRY_STORE_SECONDS
            _log.warning("BILLING_RATE_LIMIT_STORE does not answer; this process counts by itself: %s", error.__cause__)


def _shared_store(url: str | None) -> RedisStore | None:
    if url is None:
        return None
    return RedisStore(url, {"SOCKET_TIMEOUT": STORE_SECONDS, "SOCKET_CONNECT_TIMEOUT": STORE_SECONDS})


def _policy(name: str, rate: Rate, shared: RedisStore | None, own: MemoryStore) -> _Policy:
    def bucket(store: RedisStore | MemoryStore) -> Throttled:
        quota = rate_limiter.per_duration(rate.period, rate.quota)
        return Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=store, key_prefix="billing")

    unit = "" if rate.unit == "requests" else f';qu="{rate.unit}"'
    item = f'"{name}";q={rate.quota}{unit};w={rate.seconds}'
    return _Policy(name, rate, item, None if shared is None else bucket(shared), bucket(own))


@lru_cache(10_000)
def address_of(host: str) -> str:
    """The address a client is counted under: for IPv6 its /64 network, all of which one client controls."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
