"""Sessions of browsers that signed in to the console with an API key.

A session is stored with the SHA-256 of its token, as API keys are: who reads the database cannot sign in. It ends after
SESSION_TIME, when somebody signs out, or when its key is revoked or expires.
"""

import secrets
from datetime import timedelta
from functools import cached_property
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING

from billing_service.database.clock import Clock
from billing_service.database.pool import Database
from billing_service.database.queries import load_queries
from billing_service.http.auth import Authenticator, Caller, caller_of
from billing_service.http.errors import ProblemError, problem
from billing_service.settings import Rate

SESSION_COOKIE = "billing_console"
SESSION_TIME = timedelta(hours=12)
ATTEMPTS = Rate(20, timedelta(minutes=1), "requests")  # to sign in, from one address; each process counts by itself
_QUERIES = load_queries("console_sessions")


if TYPE_CHECKING:
    from billing_service.http.limits.token_buckets import TokenBuckets


class Sessions:
    """Opens, finds and ends sessions. Each page looks its session up, so a revoked key ends it at once."""

    def __init__(self, database: Database, authenticator: Authenticator, clock: Clock) -> None:
        self._database = database
        self._authenticator = authenticator
        self._clock = clock

    @cached_property
    def _attempts(self) -> "TokenBuckets":
        from billing_service.http.limits.token_buckets import BucketStore, TokenBuckets  # noqa: PLC0415 - see there

        return TokenBuckets(ATTEMPTS, BucketStore())

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
        taken = await self._attempts.take(address)
        if taken.is_refused:
            wait = max(1, ceil(taken.wait))
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
