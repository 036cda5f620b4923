"""The bodies of requests and responses: what was sent, and what arrives, within bounds."""

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from billing_client._calls import ApiCall
from billing_client._errors import UnexpectedResponseError
from billing_client._responses import Response

MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # Of a decompressed body; the largest batch is answered with about 10 MB.
MAX_LINE_BYTES = 1024 * 1024  # Of a stream.


class RequestBody(aiohttp.Payload):
    """A request body that notes when it is handed to a connection: from then on the call may have done its work."""

    def __init__(self, call: ApiCall, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._call = call

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._call.outcome = "unknown"
        await writer.write(self._value)


async def read_whole(response: aiohttp.ClientResponse, call: ApiCall) -> Response:
    """Read a response to its end, as part of the attempt: if it breaks off, the call is retried.

    Raises UnexpectedResponseError if it is longer than MAX_RESPONSE_BYTES, decompressed.
    """
    chunks, size = [], 0
    async with response:
        async for chunk in _chunks(response.content):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                detail = f"the response is longer than {MAX_RESPONSE_BYTES} bytes"
                raise UnexpectedResponseError(detail, status=response.status, **call.facts("unknown"))
        return Response(response.status, response.headers, b"".join(chunks), response)


async def read_unless_stream(response: aiohttp.ClientResponse, call: ApiCall) -> Response:
    """Read a response to its end, unless it is the stream that was asked for."""
    if response.status == 200:
        return Response(response.status, response.headers, b"", response)
    return await read_whole(response, call)


async def _chunks(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """What has arrived, again and again. The loop gets its turn between chunks, and with it the deadline."""
    while chunk := await content.readany():
        yield chunk
        if not content.at_eof():
            await asyncio.sleep(0)  # readany() does not wait while decompression has more to give


async def read_lines(content: aiohttp.StreamReader, call: ApiCall) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, each with its line end. Raises UnexpectedResponseError beyond MAX_LINE_BYTES."""
    waiting = bytearray()
    async for chunk in _chunks(content):
        searched = len(waiting)
        waiting += chunk
        while end := waiting.find(b"\n", searched) + 1:
            yield bytes(waiting[:end])
            del waiting[:end]
            searched = 0
        if len(waiting) > MAX_LINE_BYTES:
            detail = f"a line of the stream is longer than {MAX_LINE_BYTES} bytes"
            raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))
    if waiting:
        yield bytes(waiting)
