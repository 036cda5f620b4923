"""Sessions of browsers that signed in to the console with an API key.

A session is stored with the SHA-256 of its token, as API keys are: who reads the database cannot sign in. It ends after
SESSION_TIME, when somebody signs out, or when its key is revoked or expires.
"""

import secrets
from datetime import timedelta
from hashlib import sha256
from math import ceil

from throttled.asyncio import MemoryStore, RateLimiterType, Throttled, rate_limiter

from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.database.queries import load_queries
from billing_service.http.auth import Authenticator, Caller, caller_of
from billing_service.http.errors import ProblemError, problem

SESSION_COOKIE = "billing_console"
SESSION_TIME = timedelta(hours=12)
ATTEMPTS_PER_MINUTE = 20  # to sign in, from one address; each process counts by itself
MAX_ADDRESSES = 100_000
_QUERIES = load_queries("console_sessions")


class Sessions:
    """Opens, finds and ends sessions. Each page looks its session up, so a revoked key ends it at once."""

    def __init__(self, database: Database, authenticator: Authenticator, clock: Clock) -> None:
        self._database = database
        self._authenticator = authenticator
        self._clock = clock
        self._attempts = Throttled(
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_min(ATTEMPTS_PER_MINUTE),
            store=MemoryStore(options={"MAX_SIZE": MAX_ADDRESSES}),
            key_prefix="billing sign-in",
        )

    async def find(self, token: str | None) -> Caller | None:
        """The caller whose browser sent this token; None without one, and for one that is not valid or has ended.

        Raises DatabaseUnavailableError.
        """
        if not token:
            return None
        now = self._clock.now()
        async with self._database.read_connection() as connection:
            row = await connection.fetchrow(_QUERIES["find_session"], _digest(token), now)
        return None if row is None else caller_of(row, now)

    async def open(self, key: str, address: str) -> tuple[Caller, str]:
        """Sign in with an API key. Returns the caller and the token of its new session.

        Args:
            key: The text of the key.
            address: The client's address, whose attempts are counted.

        Raises:
            ProblemError: 401 for a key that is not valid, 429 after too many attempts from the address.
            DatabaseUnavailableError: The database cannot be used.
        """
        result = await self._attempts.limit(address)
        if result.limited:
            wait = max(1, ceil(result.state.retry_after))
            detail = f"Too many attempts to sign in from this address. Try again in {wait} seconds."
            raise ProblemError(problem("rate_limited", detail), {"Retry-After": str(wait)})
        caller = await self._authenticator.find(b"Bearer " + key.strip().encode())
        token, now = secrets.token_urlsafe(32), self._clock.now()
        async with self._database.write_connection() as connection:
            await connection.execute(_QUERIES["delete_expired_sessions"], now)
            await connection.execute(_QUERIES["insert_session"], _digest(token), caller.key_id, now, now + SESSION_TIME)
        return caller, token

    async def end(self, token: str) -> None:
        """Sign out: the session with this token, if there is one, is deleted. Raises DatabaseUnavailableError."""
        async with self._database.write_connection() as connection:
            await connection.execute(_QUERIES["delete_session"], _digest(token))


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
