"""Sends a call: its attempts, with one deadline over all of them."""

import asyncio
import ssl
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp
import backoff
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from billing_client._calls import OUTCOMES, ApiCall
from billing_client._config import Config
from billing_client._errors import DeadlineExceededError, TransportError, UnexpectedResponseError
from billing_client._responses import WORK_REFUSED_CODES, Response, error_from_response
from billing_client._retries import RETRIED_STATUSES, RetryableError, is_retryable, retry_after, waits
from billing_client._tracing import TraceHeaders, call_span
from billing_client.contract.deadlines import Deadlines, Limit

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
IDLE_SECONDS = 15.0  # shorter than servers keep idle connections open, so that one seldom closes under a request
MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # Of a decompressed body; the largest batch is answered with about 10 MB.
MAX_LINE_BYTES = 1024 * 1024  # Of a stream.
_STREAM_ENCODING = "gzip"
# No total: it would include the wait for a connection, and the deadline is over all attempts.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
# Of a call with a body: two timers for each, which almost always are cancelled, cost more than to encode and decode it.
_TIMEOUT_WITH_BODY = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
_ACCEPTED = "application/json, application/problem+json, application/x-ndjson"


class _RequestBody(aiohttp.Payload):
    """A request body that notes when it is handed to a connection: from then on the call may have done its work, and
    the time for its answer runs."""

    def __init__(self, call: ApiCall, body: bytes, silence: Limit) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._call = call
        self._silence = silence

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._call.outcome = "unknown"
        await writer.write(self._value)
        self._silence.start()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)  # the length is that of the body


ReadBody = Callable[[aiohttp.ClientResponse, ApiCall, Limit], Awaitable[Response]]


class Transport:
    """Sends calls over one aiohttp session, which is opened by the first call and belongs to its event loop."""

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
        self._urls = {path: URL(config.base_url + path, encoded=True) for path in ("/usage", "/usage/batch")}
        self._deadlines, self._silences = Deadlines(config.timeout), Deadlines(READ_SECONDS)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._retry = backoff.on_exception(
            waits,
            RetryableError,
            max_tries=config.max_attempts,
            giveup=lambda failed: isinstance(failed, RetryableError) and not failed.is_in_time,
            jitter=None,
            logger=None,
        )(self._fail_or_attempt)

    @property
    def timeout(self) -> float:
        """The deadline of a call, in seconds."""
        return self._config.timeout

    async def send(self, call: ApiCall) -> Response:
        """Send a call until it succeeds, and read the whole response. Raises BillingError."""
        return await self._send(call, _read_whole)

    async def stream(self, call: ApiCall, media_type: str) -> AsyncGenerator[bytes, None]:
        """The lines of a response of this type as they arrive, in constant memory. Raises BillingError.

        The call is retried until the stream begins. If it breaks off later, that is a TransportError.
        """
        call.is_stream = True
        call.headers |= {"Accept-Encoding": _STREAM_ENCODING}
        begun = await self._send(call, _read_unless_stream)
        async with begun.stream as stream:
            _check_stream(stream, call, media_type)
            try:
                async for line in _read_lines(stream, call):
                    yield line
            except (aiohttp.ClientError, OSError) as error:
                raise TransportError(f"the stream broke: {_describe(error)}", **call.facts()) from error

    async def _send(self, call: ApiCall, read: ReadBody) -> Response:
        if call.idempotency_key is not None:  # the service's log calls the request by it too
            call.headers["Idempotency-Key"] = call.headers["X-Request-Id"] = call.idempotency_key
        with call_span(call):
            if self._trace_headers is not None:
                call.headers.update(self._trace_headers())
            session = self._open_session()
            call.deadline = time.monotonic() + self._config.timeout
            try:
                with Limit(self._deadlines):
                    try:
                        return await self._attempt(session, call, read)
                    except RetryableError as first:  # most calls get by without the wrapper, a fifth of their CPU time
                        return await self._retry(session, call, read, [first])
            except RetryableError as failed:
                raise failed.error from failed.error.__cause__
            except TimeoutError as error:
                detail = f"no response within {self._config.timeout:g} s"
                if call.last_error is not None:
                    detail += f"; the last attempt that ended: {call.last_error.detail}"
                raise DeadlineExceededError(detail, **call.facts()) from call.last_error or error

    async def close(self) -> None:
        """Close the session; calls after it raise RuntimeError."""
        self._is_closed = True
        self._deadlines.close()
        self._silences.close()
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
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
                timeout=_TIMEOUT,
            )
        if self._loop is not loop:
            raise RuntimeError("this client is used in another event loop; make one client for each loop")
        return self._session

    async def _fail_or_attempt(
        self, session: aiohttp.ClientSession, call: ApiCall, read: ReadBody, first: list[RetryableError]
    ) -> Response:
        """Raise the failure of the first attempt, which was made before; after that, make one request."""
        if first:
            raise first.pop()
        return await self._attempt(session, call, read)

    async def _attempt(self, session: aiohttp.ClientSession, call: ApiCall, read: ReadBody) -> Response:
        """Make one request. Raises RetryableError if another may help, else BillingError."""
        call.attempts += 1
        before = call.outcome
        if call.body is None:
            call.outcome = "unknown"  # aiohttp itself sends a read twice, so its last error is not the whole story
        try:
            with Limit(self._silences, starts=False) as silence:
                response = await read(await self._request(session, call, silence), call, silence)
        except (aiohttp.ClientError, OSError) as error:  # the TimeoutError of a socket is an OSError
            raise self._network_error(call, error) from error
        except (asyncio.CancelledError, RuntimeError) as error:  # how aiohttp fails when its session is closed
            if not self._is_closed or _is_cancelled():
                raise
            raise TransportError("the client was closed during the call", **call.facts()) from error
        if 200 <= response.status < 300:
            return response
        problem = error_from_response(response, call)
        problem.retry_after = retry_after(response)
        if response.status == 429 or (400 <= response.status < 500 and problem.code not in WORK_REFUSED_CODES):
            # this attempt did nothing, but an earlier one may have
            call.outcome = max(before, "rejected", key=OUTCOMES.index)
        problem.outcome = "rejected" if problem.code in WORK_REFUSED_CODES else call.outcome
        if response.status in RETRIED_STATUSES:
            raise RetryableError(call, problem)
        raise problem

    def _request(
        self, session: aiohttp.ClientSession, call: ApiCall, silence: Limit
    ) -> Awaitable[aiohttp.ClientResponse]:
        url = self._urls.get(call.path) or URL(self._config.base_url + call.path, encoded=True)
        if call.query:
            url = url.with_query(call.query)
        body, timeout = None, _TIMEOUT
        if call.body is not None:
            body, timeout = _RequestBody(call, call.body, silence), _TIMEOUT_WITH_BODY
        return session.request(
            call.method,
            url,
            data=body,
            headers=call.headers,
            allow_redirects=False,
            auto_decompress=not call.is_stream,  # of a stream that is cut off, aiohttp would not tell
            timeout=timeout,
        )

    def _network_error(self, call: ApiCall, error: Exception) -> Exception:
        if type(error) is TimeoutError and error.errno is None:  # of the time for an answer
            error = aiohttp.SocketTimeoutError("Timeout on reading data from socket")
        failed = TransportError(_describe(error), **call.facts())
        failed.__cause__ = error
        return RetryableError(call, failed) if is_retryable(error) else failed


async def _read_whole(response: aiohttp.ClientResponse, call: ApiCall, silence: Limit) -> Response:
    """Read a response to its end, as part of the attempt: if it breaks off, the call is retried.

    Raises UnexpectedResponseError if it is longer than MAX_RESPONSE_BYTES, decompressed.
    """
    chunks: list[bytes] = []
    if not call.is_stream:
        try:
            chunks.append(await response.content.readany())
        except BaseException:
            response.close()
            raise
        if response.content.at_eof():  # most are whole by now, and have given their connection back
            return Response(response.status, response.headers, chunks[0], response)
    size = sum(map(len, chunks))
    async with response:
        async for chunk in _content(response, call):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                detail = f"the response is longer than {MAX_RESPONSE_BYTES} bytes"
                raise UnexpectedResponseError(detail, status=response.status, **call.facts("unknown"))
            if call.body is not None:
                silence.start()
        return Response(response.status, response.headers, b"".join(chunks), response)


async def _read_unless_stream(response: aiohttp.ClientResponse, call: ApiCall, silence: Limit) -> Response:
    """Read a response to its end, unless it is the stream that was asked for."""
    if response.status == 200:
        return Response(response.status, response.headers, b"", response)
    return await _read_whole(response, call, silence)


async def _chunks(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """What has arrived, again and again. The loop gets its turn between chunks, and with it the deadline."""
    while chunk := await content.readany():
        yield chunk
        if not content.at_eof():
            await asyncio.sleep(0)  # readany() does not wait while decompression has more to give


def _check_stream(stream: aiohttp.ClientResponse, call: ApiCall, media_type: str) -> None:
    """Raises UnexpectedResponseError if this is not the stream that was asked for, or its end could not be told."""
    detail = ""
    encoding = stream.headers.get("Content-Encoding", "identity").lower()
    if stream.status != 200 or stream.content_type != media_type:
        detail = f"the service answered {stream.status} and {stream.content_type}, not a stream of {media_type}"
    elif encoding not in ("identity", _STREAM_ENCODING):
        detail = f"the stream is encoded as {encoding}"
    elif stream.headers.get("Transfer-Encoding", "").lower() != "chunked" and "Content-Length" not in stream.headers:
        detail = "the stream does not say where it ends; let the proxy before the service speak HTTP/1.1 to it"
    if detail:
        raise UnexpectedResponseError(detail, status=stream.status, **call.facts("unknown"))


async def _read_lines(stream: aiohttp.ClientResponse, call: ApiCall) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, each with its line end. Raises UnexpectedResponseError beyond MAX_LINE_BYTES."""
    waiting, waited = bytearray(), 0.0
    began = time.monotonic()
    async for chunk in _content(stream, call):
        waited += time.monotonic() - began
        searched = len(waiting)
        waiting += chunk
        while end := waiting.find(b"\n", searched) + 1:
            yield bytes(waiting[:end])
            del waiting[:end]
            searched = 0
            waited = 0.0
        if len(waiting) > MAX_LINE_BYTES:
            detail = f"a line of the stream is longer than {MAX_LINE_BYTES} bytes"
            raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))
        if waited > READ_SECONDS:  # each byte of a line would be in time
            raise TransportError(f"the stream broke: a line took more than {READ_SECONDS:g} s", **call.facts())
        began = time.monotonic()
    if waiting:
        raise TransportError("the stream broke: it ended within a line", **call.facts())


def _content(response: aiohttp.ClientResponse, call: ApiCall) -> AsyncGenerator[bytes, None]:
    """The data of a response as they arrive, decompressed."""
    chunks = _chunks(response.content)
    is_compressed = call.is_stream and response.headers.get("Content-Encoding", "").lower() == _STREAM_ENCODING
    return _decompressed(chunks, call) if is_compressed else chunks


async def _decompressed(chunks: AsyncGenerator[bytes, None], call: ApiCall) -> AsyncGenerator[bytes, None]:
    """The data of gzip. aiohttp would take what is cut off for the whole. Raises TransportError."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16 selects the gzip format
    try:
        async for chunk in chunks:
            data = inflater.decompress(chunk, MAX_LINE_BYTES)
            while data:
                yield data
                await asyncio.sleep(0)
                data = inflater.decompress(inflater.unconsumed_tail, MAX_LINE_BYTES)
    except zlib.error as error:
        raise TransportError(f"the stream broke: {error}", **call.facts()) from error
    if not inflater.eof or inflater.unused_data:
        raise TransportError("the stream broke: its gzip has no end, or more behind it", **call.facts())


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
