"""Authentication and authorization: the only place where API keys are checked."""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import datetime, timedelta
from hmac import compare_digest

import asyncpg
from msgspec import Struct

from billing_service.database.clock import Clock
from billing_service.database.pool import PARTING_SECONDS, Database, DatabaseUnavailableError
from billing_service.http.errors import ProblemError, problem
from billing_service.ledger.api_keys import (
    SCOPES,
    Credentials,
    Scope,
    find_keys,
    note_use,
    permitted,
    read_credentials,
)
from billing_service.pace import USUAL, Pace

_log = logging.getLogger(__name__)
MAX_CALLERS = 10_000  # cached callers, 500 bytes each
NOTED_EVERY = timedelta(minutes=1)  # how often the last use of a key is written down
_NO_SECRET = bytes(32)  # compared with when the key is unknown; no known text has this SHA-256
_CHALLENGE = 'Bearer realm="billing-service"'


class Caller(Struct, frozen=True):
    """Who makes a request.

    Attributes:
        name: The key's name and id for the audit log, or `anonymous`.
        scopes: What the caller may do.
        customer_id: The only customer whose data the caller reaches; None for all customers.
        key_id: The id of its API key; None if it sent none, which is possible in development only.
    """

    name: str
    scopes: frozenset[Scope]
    customer_id: str | None = None
    key_id: str | None = None

    @property
    def key_name(self) -> str | None:
        """The caller's API key as records and voids name it: `bk_` and its id. None without a key."""
        return None if self.key_id is None else f"bk_{self.key_id}"

    def reaches(self, customer_id: str | None) -> bool:
        """Whether the caller may see and change this customer's data; with None, that of all customers."""
        return self.customer_id is None or self.customer_id == customer_id

    def require_reach(self, customer_id: str | None, request_id: str | None = None) -> None:
        """Raise ProblemError (403) if the caller may not reach this customer, whether or not the customer exists.

        Args:
            customer_id: The customer; None for the data of all customers.
            request_id: The request id of the usage that was reported, for the problem; None outside reporting.
        """
        if not self.reaches(customer_id):
            raise self.out_of_reach(request_id)

    @staticmethod
    def out_of_reach(request_id: str | None = None) -> ProblemError:
        """The error (403) for a caller whose key is bound to another customer."""
        return ProblemError(problem("forbidden", "The API key is bound to another customer.", request_id=request_id))


def scope_is_missing(scope: Scope) -> ProblemError:
    """The error (403) for a caller whose key lacks this scope."""
    challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'  # RFC 6750, section 3.1
    return ProblemError(problem("forbidden", f"The API key lacks the scope {scope}."), {"WWW-Authenticate": challenge})


ANYBODY = Caller("anonymous", frozenset(SCOPES))


class _Known(Struct, frozen=True):
    caller: Caller
    until: float


class Authenticator:
    """Finds the caller for an `Authorization` header.

    Callers are cached for a while. Keys that are not in the cache wait for one statement that looks up all
    waiting keys. So any number of calls with unknown keys uses at most one connection.
    """

    def __init__(
        self,
        database: Database,
        *,
        key_required: bool,
        bound: int = MAX_CALLERS,
        clock: Clock | None = None,
        pace: Pace = USUAL,
    ) -> None:
        """Create the authenticator.

        Args:
            database: Where the keys are looked up.
            key_required: Whether a request without a key is refused (401) rather than served as anonymous.
            bound: How many callers are cached before the cache is emptied.
            clock: What expiry is compared with; by default this machine's clock.
            pace: How long callers are cached.
        """
        self._database = database
        self._bound = bound
        self._clock = clock or Clock()
        self._key_required = key_required
        self._fresh_seconds = pace.key_seconds
        self._known: dict[bytes, _Known] = {}
        self._waiting: dict[bytes, tuple[Credentials, asyncio.Future[Caller | None]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def find(self, authorization: bytes | None) -> Caller:
        """The caller that sent this `Authorization` header (None if it sent none).

        Raises:
            ProblemError: 401; a key is required and missing, or the key is not valid.
            DatabaseUnavailableError: The key had to be looked up, and the database cannot be used.
        """
        if authorization is None:
            if self._key_required:
                raise _unauthenticated("Send an API key: Authorization: Bearer bk_….", _CHALLENGE)
            return ANYBODY
        known = self._known.get(authorization)
        if known is not None and known.until > time.monotonic():
            return known.caller
        caller = await self._look_up(authorization)
        if caller is None:
            detail = "The API key is not valid: it is unknown, expired or revoked."
            raise _unauthenticated(detail, f'{_CHALLENGE}, error="invalid_token"')
        return caller

    async def drain(self) -> None:
        """Wait until the last uses of keys are saved, at most PARTING_SECONDS."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                while self._reader is not None:
                    await asyncio.shield(self._reader)

    async def _look_up(self, authorization: bytes) -> Caller | None:
        credentials = read_credentials(authorization)
        if credentials is None:
            return None
        waiting = self._waiting.get(authorization)
        if waiting is None:
            waiting = self._waiting[authorization] = (credentials, asyncio.get_running_loop().create_future())
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
        return await asyncio.shield(waiting[1])

    async def _read(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                try:
                    await self._answer(waiting)
                except Exception as error:  # noqa: BLE001 - every waiting call must get the error, whatever it is
                    for _, future in waiting.values():
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # marks it as retrieved: the calls may all have been cancelled
        finally:
            self._reader = None

    async def _answer(self, waiting: dict[bytes, tuple[Credentials, "asyncio.Future[Caller | None]"]]) -> None:
        asked_at = time.monotonic()
        async with self._database.connection() as connection:
            rows = await find_keys(connection, list({credentials.key_id for credentials, _ in waiting.values()}))
        now = self._clock.now()
        by_id = {row["key_id"]: row for row in rows}
        if len(self._known) > self._bound:
            self._known.clear()
        used = set()
        for authorization, (credentials, future) in waiting.items():
            row = by_id.get(credentials.key_id)
            caller = _caller(row, credentials, now)
            if row is None or caller is None:
                self._known.pop(authorization, None)
            else:
                self._known[authorization] = _Known(caller, asked_at + self._fresh_for(row["expires_at"], now))
                if row["last_used_at"] is None or row["last_used_at"] < now - NOTED_EVERY:
                    used.add(credentials.key_id)
            future.set_result(caller)
        if used:
            await self._note_use(list(used), now)

    def _fresh_for(self, expires_at: datetime | None, now: datetime) -> float:
        fresh = self._fresh_seconds
        return fresh if expires_at is None else min(fresh, (expires_at - now).total_seconds())

    async def _note_use(self, key_ids: list[str], now: datetime) -> None:
        """Save the last use of keys. Calls do not wait for it; if it fails, the next look-up saves it."""
        try:
            async with self._database.connection() as connection:
                await note_use(connection, key_ids, now, now - NOTED_EVERY)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("the last use of API keys could not be saved; the next look-up tries again: %s", error)


def _caller(row: asyncpg.Record | None, credentials: Credentials, now: datetime) -> Caller | None:
    """The caller with these credentials; None if they are not valid."""
    # An unknown id is compared too, so that the time taken does not tell whether an id exists.
    matches = compare_digest(credentials.secret_sha256, _NO_SECRET if row is None else row["secret_sha256"])
    return caller_of(row, now) if row is not None and matches else None


def caller_of(row: asyncpg.Record, now: datetime) -> Caller | None:
    """The caller that has the key in this row of `api_keys`; None if the key is revoked or expired."""
    if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now):
        return None
    scopes = permitted(row["scopes"], row["customer_id"])
    return Caller(f"{row['name']} (bk_{row['key_id']})", scopes, row["customer_id"], row["key_id"])


def _unauthenticated(detail: str, challenge: str) -> ProblemError:
    return ProblemError(problem("unauthenticated", detail), {"WWW-Authenticate": challenge})
