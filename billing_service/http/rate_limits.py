"""Rate limits: so many requests and records for each key and for each address, as token buckets.

The buckets are those of throttled-py (GCRA: a token bucket that is kept as one time). They are this process's own, or
lie in a Redis that several share; while that does not answer, each process counts by itself.
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
MAX_BUCKETS = 100_000  # 300 bytes each; the one that was not used for the longest time goes first
STORE_SECONDS, RETRY_STORE_SECONDS = 0.5, 5.0


class _Policy(NamedTuple):
    """One limit. `item` is what the `RateLimit-Policy` header says of it."""

    name: str
    rate: Rate
    item: str
    shared: Throttled | None
    own: Throttled


class Standing(NamedTuple):
    """Where a caller stands with one limit: an item of `RateLimit-Policy` and one of `RateLimit`
    (draft-ietf-httpapi-ratelimit-headers-11): `r` tokens are left, and in `t` seconds there are more, or enough."""

    policy: str
    left: str


def rate_limit_headers(standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """The headers that tell a caller where it stands with the limits that it was counted against."""
    policies, left = (", ".join(items).encode() for items in zip(*standings, strict=True))
    return [(b"ratelimit-policy", policies), (b"ratelimit", left)]


class RateLimits:
    """The limits that are set. Requests and records are counted before the work, so a refusal costs little more.

    Each method adds to `standings` what to tell the caller, and raises ProblemError (429) where a limit is used up.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = _shared_store(settings.rate_limit_store)
        self._store_away_until = 0.0
        own_store = MemoryStore(options={"MAX_SIZE": MAX_BUCKETS})
        self._policies = {
            name: _policy(name, rate, self._store, own_store) for name, rate in settings.rates.items() if rate
        }

    async def count_request_of_address(self, address: str, standings: list[Standing]) -> None:
        """Count a request of an address, before anything is looked up."""
        await self._take("address-requests", address, 1, standings)

    async def count_request_of_key(self, key_id: str | None, standings: list[Standing]) -> None:
        """Count a request of an API key."""
        await self._take("key-requests", key_id, 1, standings)

    async def count_records(self, address: str, key_id: str | None, records: int, standings: list[Standing]) -> None:
        """Count the records of a request, whatever becomes of them. Where it raises, none is recorded."""
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
            whose = "API key" if name.startswith("key") else "address"
            detail = f"This {whose} has used up its {policy.rate.quota} {policy.rate.unit} in {policy.rate.seconds} s."
            raise ProblemError(problem("rate_limited", detail), {"Retry-After": str(wait)})

    async def _limit(self, policy: _Policy, key: str, cost: int) -> RateLimitResult:
        if policy.shared is not None and time.monotonic() >= self._store_away_until:
            with self._tolerating_its_absence():
                return await policy.shared.limit(key, cost)
        return await policy.own.limit(key, cost)

    @contextmanager
    def _tolerating_its_absence(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailableError as error:
            self._store_away_until = time.monotonic() + RETRY_STORE_SECONDS
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
    """What counts as one address: of IPv6 a /64, since whoever has one address has all of that."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
