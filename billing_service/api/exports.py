"""The export endpoint: streams usage records as JSON lines or CSV."""

import asyncio
import csv
import io
import zlib
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from billing_client.contract.csv_cells import disarm
from billing_client.contract.query_parameters import EXPORT_TYPES, ExportQuery
from billing_client.contract.request_parsing import read_span
from billing_client.contract.wire import UsageRecord
from billing_service.http.negotiation import accepts_encoding, choose_format
from billing_service.http.operations import Operation
from billing_service.http.requests import LAG_HEADER, ApiRequest
from billing_service.ledger.customers import require_customer
from billing_service.ledger.export import RecordStream, Selection
from billing_service.ledger.records import RecordFilter

_encode_lines = msgspec.json.Encoder().encode_lines
_HARMLESS = ("request_id", "units_consumed", "price_per_unit", "amount")  # a negative number is no formula
_COLUMNS = {field.name: field.encode_name for field in msgspec.structs.fields(UsageRecord)}


async def export_usage(request: ApiRequest, query: ExportQuery) -> Response:
    """Stream all records, or one customer's, by (customer, time)."""
    format_ = choose_format(request, query.format, EXPORT_TYPES)
    if query.customer_id is not None:
        request.caller.require_reach(query.customer_id)
    start, end = read_span(query.from_, query.to)
    wanted = RecordFilter(end, query.service, query.dimensions)
    selection = Selection(query.customer_id or request.caller.customer_id, start, wanted)
    async with request.services.database.read_connection() as connection:
        if query.customer_id is not None:
            await require_customer(connection, query.customer_id)
    async with request.services.read_database.read_connection() as connection:
        lag = await request.replica_lag(connection)
    stream = RecordStream(
        request.services.read_database, selection, _encode_rows if format_ == "csv" else _encode_lines
    )
    body = _with_header(stream.chunks(), _rows([_COLUMNS.values()])) if format_ == "csv" else stream.chunks()
    headers = {"Content-Disposition": f'attachment; filename="usage.{format_}"', "Vary": "Accept, Accept-Encoding"}
    headers |= lag
    if accepts_encoding(request, "gzip"):
        headers["Content-Encoding"] = "gzip"
        body = _gzip(body)
    return _Export(stream, body, headers=headers, media_type=EXPORT_TYPES[format_])


class _Export(StreamingResponse):
    """Runs the record stream while the response is being sent, and stops it if the client goes away."""

    def __init__(self, stream: RecordStream, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # the response has no body
            self.body_iterator = _nothing()
            await super().__call__(scope, receive, send)
            return
        async with self._stream.running():
            await super().__call__(scope, receive, send)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _with_header(chunks: AsyncIterator[bytes], header: bytes) -> AsyncIterator[bytes]:
    yield header
    async for chunk in chunks:
        yield chunk


def _encode_rows(records: list[UsageRecord[str]]) -> bytes:
    return _rows(
        [getattr(record, name) if name in _HARMLESS else _cell(getattr(record, name)) for name in _COLUMNS]
        for record in records
    )


def _rows(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # RFC 4180
    return text.getvalue().encode()


def _cell(value: str | datetime | dict[str, str] | UnsetType | None) -> str:
    if value is None or value is UNSET:
        return ""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return disarm(msgspec.json.encode(value).decode())
    return disarm(value)


async def _gzip(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16 selects the gzip format
    async for chunk in body:
        yield await asyncio.to_thread(compressor.compress, chunk)  # zlib lets the event loop go on meanwhile
    yield compressor.flush()


OPERATIONS = [
    Operation(
        method="GET",
        path="/usage/export",
        handler=export_usage,
        tag="usage",
        scope="usage:read",
        reach="handler",
        query=ExportQuery,
        answer=str,
        headers=("Content-Disposition", LAG_HEADER),
        media_types=tuple(EXPORT_TYPES.values()),
        problems=("customer_not_found", "not_acceptable"),
    )
]
