"""One call: its attempts, its waits, its one deadline."""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import aiohttp
import backoff
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from billing_client._config import Config
from billing_client._errors import BillingError, CallOutcome, DeadlineExceededError, TransportError
from billing_client._responses import RETRIED_STATUSES, WORK_REFUSED_CODES, Answer, error_of
from billing_client._tracing import TraceHeaders, call_span
from billing_client.contract.deadlines import Deadlines, Limit

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
IDLE_SECONDS = 15.0  # shorter than a server keeps an idle connection, so that it seldom closes one under a request
_ACCEPTED = "application/json, application/problem+json, application/x-ndjson"
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 10.0


_PROGRESS: tuple[CallOutcome, ...] = ("not_sent", "rejected", "unknown")


@dataclass(slots=True)
class Call:
    """What is sent, the same at each attempt, and what is known of the attempts so far.

    `outcome` is what the caller has to reckon with after all of them; it only ever moves on in `_PROGRESS`.
    """

    method: str
    path: str
    body: bytes | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    deadline: float = 0.0
    attempts: int = 0
    outcome: CallOutcome = "not_sent"
    last_error: BillingError | None = None

    def facts(self, outcome: CallOutcome | None = None) -> dict[str, Any]:
        """What every error says of its call."""
        return {
            "outcome": outcome or self.outcome,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "idempotency_key": self.idempotency_key,
        }


class _Body(aiohttp.Payload):
    """A body that notes the moment it is handed to a connection: from then on the call may have done its work."""

    def __init__(self, call: Call, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._call = call

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._call.outcome = "unknown"
        await writer.write(self._value)


class _TryAgainError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, call: Call, error: BillingError) -> None:
        super().__init__(str(error))
        self.error = call.last_error = error
        self.in_time = time.monotonic() + error.retry_after < call.deadline


def _waits() -> Generator[float, Any, None]:
    """Exponential waits with full jitter, on top of what the service asked for.

    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
    """
    again = yield 0.0
    longest = FIRST_WAIT_SECONDS
    while True:
        again = yield again.error.retry_after + random.uniform(0.0, longest)  # noqa: S311 - spreads load, keeps no secret
        longest = min(longest * 2, LONGEST_WAIT_SECONDS)


Reader = Callable[[aiohttp.ClientResponse], Awaitable[Answer]]


class Transport:
    """Sends calls over one session, which is made when first needed and belongs to its event loop."""

    def __init__(
        self,
        config: Config,
        ssl_context: ssl.SSLContext | None,
        user_agent: str,
        trace_headers: TraceHeaders | None = None,
    ) -> None:
        self._config = config
        self._trace_headers = trace_headers
        self._ssl = ssl_context if ssl_context is not None else True
        self._headers = {"Accept": _ACCEPTED, "User-Agent": user_agent}
        if config.api_key is not None:
            self._headers["Authorization"] = f"Bearer {config.api_key}"
        self._deadlines = Deadlines(config.timeout)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._go_on = backoff.on_exception(
            _waits,
            _TryAgainError,
            max_tries=config.max_attempts,
            giveup=lambda again: isinstance(again, _TryAgainError) and not again.in_time,
            jitter=None,
            logger=None,
        )(self._attempt_again)

    async def send(self, call: Call) -> Answer:
        """Send a call until it is answered; gives the whole answer of a call that succeeded. Raises BillingError."""
        return await self._until_answered(call, _read_whole)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """The lines of an answer as they come, in constant memory. Raises BillingError.

        It is asked for until it begins; a stream that breaks later is a TransportError.
        """
        answer = await self._until_answered(call, _read_refusal)
        async with answer.response as response:
            try:
                async for line in response.content:
                    yield line
            except (aiohttp.ClientError, OSError) as error:
                raise TransportError(f"the stream broke: {_describe(error)}", **call.facts()) from error

    async def _until_answered(self, call: Call, read: Reader) -> Answer:
        if call.idempotency_key is not None:  # which names the call in the service's log too
            call.headers |= {"Idempotency-Key": call.idempotency_key, "X-Request-Id": call.idempotency_key}
        with call_span(call.method, call.path, call.headers, lambda: call.attempts):
            if self._trace_headers is not None:
                call.headers.update(self._trace_headers())
            return await self._within_deadline(call, read)

    async def _within_deadline(self, call: Call, read: Reader) -> Answer:
        session = self._open_session()
        call.deadline = time.monotonic() + self._config.timeout
        try:
            with Limit(self._deadlines):
                try:
                    return await self._attempt(session, call, read)
                except _TryAgainError as again:
                    return await self._go_on(session, call, read, [again])
        except _TryAgainError as again:
            raise again.error from again.error.__cause__
        except TimeoutError as error:
            detail = f"no answer within {self._config.timeout:g} s"
            if call.last_error is not None:
                detail += f"; the last attempt that ended: {call.last_error.detail}"
            raise DeadlineExceededError(detail, **call.facts()) from call.last_error or error

    async def close(self) -> None:
        """Close the session; calls after it raise RuntimeError."""
        self._closed = True
        self._deadlines.close()
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._config.max_connections, keepalive_timeout=IDLE_SECONDS, ssl=self._ssl
                ),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                # no total: it would count the wait for a connection, and the deadline is over all attempts
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
            )
        if self._loop is not loop:
            raise RuntimeError("this client is used in another event loop; make one client for each loop")
        return self._session

    async def _attempt(self, session: aiohttp.ClientSession, call: Call, read: Reader) -> Answer:
        """Make one request. Raises _TryAgainError where another may help, else BillingError."""
        call.attempts += 1
        before = call.outcome
        if call.body is None:
            call.outcome = "unknown"  # aiohttp sends a read twice by itself, so what it says last is not all there was
        try:
            answer = await read(await self._request(session, call))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutErrors of the sockets are OSErrors
            raise self._failure(call, error) from error
        except (asyncio.CancelledError, RuntimeError) as error:  # what aiohttp makes of a session closed meanwhile
            if not self._closed or _is_cancelled():
                raise
            raise TransportError("the client was closed during the call", **call.facts()) from error
        if 200 <= answer.status < 300:
            return answer
        problem = error_of(answer, call.facts())
        problem.retry_after = _retry_after(answer)
        if answer.status == 429 or (400 <= answer.status < 500 and problem.code not in WORK_REFUSED_CODES):
            # whoever answered so did nothing, but does not know what an attempt before did
            call.outcome = max(before, "rejected", key=_PROGRESS.index)
        problem.outcome = "rejected" if problem.code in WORK_REFUSED_CODES else call.outcome
        if answer.status in RETRIED_STATUSES:
            raise _TryAgainError(call, problem)
        raise problem

    async def _attempt_again(
        self, session: aiohttp.ClientSession, call: Call, read: Reader, failed: list[_TryAgainError]
    ) -> Answer:
        """As `_attempt`, but first the failure of the attempt that was made before, which most calls get by without."""
        if failed:
            raise failed.pop()
        return await self._attempt(session, call, read)

    def _failure(self, call: Call, error: Exception) -> Exception:
        """What to raise for a fault of the network."""
        failed = TransportError(_describe(error), **call.facts())
        failed.__cause__ = error
        hopeless = isinstance(error, _NEVER_RETRIED) or isinstance(error.__cause__, ssl.SSLError)
        return failed if hopeless else _TryAgainError(call, failed)

    async def _request(self, session: aiohttp.ClientSession, call: Call) -> aiohttp.ClientResponse:
        body = None if call.body is None else _Body(call, call.body)
        url = _url(self._config.base_url + call.path)
        if call.query:
            url = url.with_query(call.query)
        return await session.request(call.method, url, data=body, headers=call.headers, allow_redirects=False)


@lru_cache(100)
def _url(text: str) -> URL:
    return URL(text, encoded=True)


async def _read_whole(response: aiohttp.ClientResponse) -> Answer:
    """Read an answer to its end, within the attempt: one that breaks off is asked for again."""
    async with response:
        return Answer(response.status, response.headers, await response.read(), response)


async def _read_refusal(response: aiohttp.ClientResponse) -> Answer:
    """Read an answer only where it is not the stream that was asked for."""
    if response.status == 200:
        return Answer(response.status, response.headers, b"", response)
    return await _read_whole(response)


# another attempt would meet the same certificate, the same address
_NEVER_RETRIED = (aiohttp.ClientSSLError, ssl.SSLError, aiohttp.ServerFingerprintMismatch, aiohttp.InvalidURL)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _retry_after(answer: Answer) -> float:
    """The seconds that Retry-After asks for (RFC 9110, section 10.2.3), 0 where it does not."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
