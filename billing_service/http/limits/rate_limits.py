"""Rate limits: requests and records per API key and per client address, as token buckets.

The buckets are kept in this process, or in a Redis that several processes share. While that Redis does not answer, each
process counts by itself.
"""

import logging
import time
from math import ceil
from typing import NamedTuple

from billing_service.http.errors import ProblemError, problem
from billing_service.http.limits.standings import Standing
from billing_service.http.limits.token_buckets import BucketStore, StoreAwayError, Taken, TokenBuckets
from billing_service.settings import Rate, Settings

_log = logging.getLogger(__name__)
RETRY_STORE_SECONDS = 5.0  # how long Redis is not asked after it did not answer


class _Policy(NamedTuple):
    """One limit. `item` is its entry in the `RateLimit-Policy` header."""

    name: str
    rate: Rate
    item: str
    shared: TokenBuckets | None
    own: TokenBuckets


class RateLimits:
    """The configured limits. Requests and records are counted before any other work, so a refusal costs little.

    Each `count_` method appends what the caller has left to `standings`, and raises ProblemError (429) if a limit is
    used up.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.rate_limit_store
        self._store = None if url is None else BucketStore(url)
        self._store_down_until = 0.0
        own_store = BucketStore()
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
            await self._store.close()

    async def _take(self, name: str, subject: str | None, cost: int, standings: list[Standing]) -> None:
        policy = self._policies.get(name)
        if policy is None or subject is None or cost == 0:
            return
        taken = await self._limit(policy, f"{name}:{subject}", cost)
        wait = max(1, ceil(taken.wait if taken.is_refused else policy.rate.seconds / policy.rate.quota))
        standings.append(Standing(policy.item, f'"{name}";r={taken.left};t={wait}'))
        if taken.is_refused:
            kind = "API key" if name.startswith("key") else "address"
            detail = f"This {kind} has used up its {policy.rate.quota} {policy.rate.unit} in {policy.rate.seconds} s."
            raise ProblemError(problem("rate_limited", detail), {"Retry-After": str(wait)})

    async def _limit(self, policy: _Policy, key: str, cost: int) -> Taken:
        if policy.shared is not None and time.monotonic() >= self._store_down_until:
            try:
                return await policy.shared.take(key, cost)
            except StoreAwayError as error:
                self._store_down_until = time.monotonic() + RETRY_STORE_SECONDS
                _log.warning("BILLING_RATE_LIMIT_STORE does not answer; this process counts by itself: %s", error)
        return await policy.own.take(key, cost)


def _policy(name: str, rate: Rate, shared: BucketStore | None, own: BucketStore) -> _Policy:
    unit = "" if rate.unit == "requests" else f';qu="{rate.unit}"'
    item = f'"{name}";q={rate.quota}{unit};w={rate.seconds}'
    return _Policy(name, rate, item, None if shared is None else TokenBuckets(rate, shared), TokenBuckets(rate, own))
