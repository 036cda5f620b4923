"""Who makes a request and what it may do: the one place where API keys are checked."""

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
from billing_service.ledger.api_keys import SCOPES, Credentials, Scope, find_keys, note_use, read_credentials

_log = logging.getLogger(__name__)
FRESH_SECONDS = 5.0  # for so long a key that was looked up is good unseen, so a revocation takes that long at the most
MAX_CALLERS = 10_000  # 500 bytes each
NOTED_EVERY = timedelta(minutes=1)
_NOBODY = bytes(32)  # the SHA-256 of nothing that is known
_CHALLENGE = 'Bearer realm="billing-service"'


class Caller(Struct, frozen=True):
    """Who makes a request. `customer_id` is the one customer it reaches, None for all; `key_id` is None for anybody,
    in development."""

    name: str
    scopes: frozenset[Scope]
    customer_id: str | None = None
    key_id: str | None = None

    @property
    def key_name(self) -> str | None:
        """The caller's API key as records and voids name it, `bk_` and its id; None without one."""
        return None if self.key_id is None else f"bk_{self.key_id}"

    def reaches(self, customer_id: str | None) -> bool:
        """Whether this customer's data, or with None that of all, is the caller's to see and change."""
        return self.customer_id is None or self.customer_id == customer_id

    def require_reach(self, customer_id: str | None, request_id: str | None = None) -> None:
        """Raise ProblemError (403) where `reaches` says no; whether there is such a customer makes no difference."""
        if not self.reaches(customer_id):
            raise ProblemError(problem("forbidden", "The API key is bound to another customer.", request_id=request_id))


def scope_is_missing(scope: Scope) -> ProblemError:
    """The refusal (403) of a caller whose key does not permit what it asks for."""
    challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'  # RFC 6750, section 3.1
    return ProblemError(problem("forbidden", f"The API key lacks the scope {scope}."), {"WWW-Authenticate": challenge})


ANYBODY = Caller("anonymous", frozenset(SCOPES))


class _Known(Struct, frozen=True):
    caller: Caller
    until: float


class Authenticator:
    """Knows callers by their `Authorization` header: the one place where API keys are checked.

    Looking one up costs a look into a dict; what is not there, or no longer fresh, waits for one statement that looks
    up all that wait. So any number of calls with unknown keys keeps one connection busy at the most.
    """

    def __init__(
        self, database: Database, *, key_required: bool, bound: int = MAX_CALLERS, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._bound = bound
        self._clock = clock or Clock()
        self._key_required = key_required
        self._known: dict[bytes, _Known] = {}
        self._waiting: dict[bytes, tuple[Credentials, asyncio.Future[Caller | None]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def find(self, authorization: bytes | None) -> Caller:
        """The caller who sent this `Authorization` header. Raises ProblemError (401), DatabaseUnavailableError."""
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
        """Wait until the last uses are noted, for PARTING_SECONDS at most."""
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
                except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to each call that waits
                    for _, future in waiting.values():
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # each call may have gone away meanwhile
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
                self._known[authorization] = _Known(caller, asked_at + _fresh_for(row["expires_at"], now))
                if row["last_used_at"] is None or row["last_used_at"] < now - NOTED_EVERY:
                    used.add(credentials.key_id)
            future.set_result(caller)
        if used:
            await self._note_use(list(used), now)

    async def _note_use(self, key_ids: list[str], now: datetime) -> None:
        """After the answer, so that no call waits for it; what is missed is noted at the next look-up."""
        try:
            async with self._database.connection() as connection:
                await note_use(connection, key_ids, now, now - NOTED_EVERY)
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("the last use of keys was not noted: %s", error)


def _caller(row: asyncpg.Record | None, credentials: Credentials, now: datetime) -> Caller | None:
    """Whose key it is, None where it is not good. All cases take the same way, an unknown id too."""
    proved = compare_digest(credentials.secret_sha256, _NOBODY if row is None else row["secret_sha256"])
    if row is None or not proved or row["revoked_at"] is not None:
        return None
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return None
    scopes = frozenset(SCOPES if "admin" in row["scopes"] else row["scopes"])
    return Caller(f"{row['name']} (bk_{row['key_id']})", scopes, row["customer_id"], row["key_id"])


def _fresh_for(expires_at: datetime | None, now: datetime) -> float:
    return FRESH_SECONDS if expires_at is None else min(FRESH_SECONDS, (expires_at - now).total_seconds())


def _unauthenticated(detail: str, challenge: str) -> ProblemError:
    return ProblemError(problem("unauthenticated", detail), {"WWW-Authenticate": challenge})
