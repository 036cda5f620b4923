"""Token buckets, those of throttled-py (GCRA: a bucket that is stored as one timestamp).

The library takes a third of the time of a start, most of it for what it imports, so it is imported when it is needed.
"""

from typing import Any, NamedTuple

from throttled.asyncio import MemoryStore, RateLimiterType, RedisStore, Throttled, rate_limiter
from throttled.exceptions import StoreUnavailableError

from billing_service.settings import Rate

STORE_SECONDS = 0.5  # timeout of a call to Redis


class Taken(NamedTuple):
    """What came of taking tokens.

    Attributes:
        is_refused: Whether there were too few.
        left: How many there are now.
        wait: In how many seconds there are enough.
    """

    is_refused: bool
    left: int
    wait: float


class StoreAwayError(Exception):
    """The store that several processes share does not answer."""


class BucketStore:
    """Where buckets are kept: in this process, or in a Redis.

    Args:
        url: Of the Redis; None for this process.
        most: How many buckets this process keeps, of 300 bytes each; the least recently used one is dropped first.
    """

    def __init__(self, url: str | None = None, most: int = 100_000) -> None:
        self.kept: RedisStore | MemoryStore
        if url is None:
            self.kept = MemoryStore(options={"MAX_SIZE": most})
        else:
            self.kept = RedisStore(url, {"SOCKET_TIMEOUT": STORE_SECONDS, "SOCKET_CONNECT_TIMEOUT": STORE_SECONDS})

    async def close(self) -> None:
        """Close the connections."""
        if isinstance(self.kept, RedisStore):
            client: Any = self.kept._backend.get_client()  # noqa: SLF001 - the library has no way to close it
            await client.aclose()
            await client.connection_pool.disconnect()


class TokenBuckets:
    """The buckets of one limit.

    Args:
        rate: How many tokens each holds, and in which time it is filled again.
        store: Where they are kept.
    """

    def __init__(self, rate: Rate, store: BucketStore) -> None:
        quota = rate_limiter.per_duration(rate.period, rate.quota)
        self._throttled = Throttled(
            using=RateLimiterType.GCRA.value, quota=quota, store=store.kept, key_prefix="billing"
        )

    async def take(self, key: str, tokens: int = 1) -> Taken:
        """Take tokens from the bucket with this key, if it has them. Raises StoreAwayError."""
        try:
            result = await self._throttled.limit(key, tokens)
        except StoreUnavailableError as error:
            raise StoreAwayError(str(error.__cause__)) from error
        return Taken(result.limited, result.state.remaining, result.state.retry_after)
