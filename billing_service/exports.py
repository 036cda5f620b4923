"""The export: every record, as a stream.

It reads page after page by key and holds no connection between two of them: a cursor of the database would hold one,
and a snapshot that keeps the vacuum from its work, for as long as the slowest reader takes.
"""

import csv
import io
import zlib
from collections.abc import AsyncIterator, Iterable
from datetime import datetime

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from billing_client.contract.csv_cells import disarm
from billing_client.contract.parameters import BEGINNING, END, instant_parameter
from billing_client.contract.queries import EXPORT_TYPES, ExportQuery
from billing_client.wire import UsageRecord
from billing_service.callers import Caller, caller_of
from billing_service.customers import list_customer_rows, require_customer
from billing_service.database import Database
from billing_service.ledger import list_records
from billing_service.negotiation import accepts_encoding, choose_format
from billing_service.operations import Operation

PAGE_RECORDS = 1_000
PAGE_CUSTOMERS = 1_000
_encode_lines = msgspec.json.Encoder().encode_lines
_COLUMNS = {field.name: field.encode_name for field in msgspec.structs.fields(UsageRecord)}


class _Selection(Struct, frozen=True):
    caller: Caller
    customer_id: str | None
    service: str | None
    start: datetime
    end: datetime


async def export_usage(request: Request, query: ExportQuery) -> Response:
    """Stream all records, or one customer's, by (customer, time)."""
    format_ = choose_format(request, query.format, EXPORT_TYPES)
    if query.customer_id is not None:
        caller_of(request).require_reach(query.customer_id)
    selection = _Selection(
        caller_of(request),
        query.customer_id,
        query.service,
        instant_parameter("from", query.from_, BEGINNING),
        instant_parameter("to", query.to, END),
    )
    database: Database = request.app.state.database
    async with database.connection() as connection:
        if query.customer_id is not None:
            await require_customer(connection, query.customer_id)
    pages = _pages(database, selection)
    body = _csv(pages) if format_ == "csv" else _ndjson(pages)
    headers = {"Content-Disposition": f'attachment; filename="usage.{format_}"', "Vary": "Accept, Accept-Encoding"}
    if accepts_encoding(request, "gzip"):
        headers["Content-Encoding"] = "gzip"
        body = _gzip(body)
    return StreamingResponse(body, headers=headers, media_type=EXPORT_TYPES[format_])


async def _pages(database: Database, selection: _Selection) -> AsyncIterator[list[UsageRecord[str]]]:
    """The records by (customer id, occurred at, request id), each page on a connection of its own."""
    async for customer_id in _customers(database, selection):
        after = (selection.start, b"")
        while True:
            async with database.connection() as connection:
                records = await list_records(
                    connection, customer_id, after, selection.end, selection.service, PAGE_RECORDS
                )
            if records:
                yield records
            if len(records) < PAGE_RECORDS:
                break
            after = (records[-1].occurred_at, bytes.fromhex(records[-1].request_id))


async def _customers(database: Database, selection: _Selection) -> AsyncIterator[str]:
    if selection.customer_id is not None:
        yield selection.customer_id
        return
    after = ""
    while True:
        async with database.connection() as connection:
            rows = await list_customer_rows(connection, selection.caller, after, PAGE_CUSTOMERS)
        ids = [row["customer_id"] for row in rows]
        for customer_id in ids:
            yield customer_id
        if len(ids) < PAGE_CUSTOMERS:
            return
        after = ids[-1]


async def _ndjson(pages: AsyncIterator[list[UsageRecord[str]]]) -> AsyncIterator[bytes]:
    async for records in pages:
        yield _encode_lines(records)


async def _csv(pages: AsyncIterator[list[UsageRecord[str]]]) -> AsyncIterator[bytes]:
    yield _rows([_COLUMNS.values()])
    async for records in pages:
        yield _rows([_cell(getattr(record, name)) for name in _COLUMNS] for record in records)


def _rows(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # RFC 4180
    return text.getvalue().encode()


def _cell(value: str | datetime | None) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return disarm(value or "")


async def _gzip(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16 asks for the gzip format
    async for chunk in body:
        yield compressor.compress(chunk)
    yield compressor.flush()


OPERATIONS = [
    Operation(
        method="GET",
        path="/usage/export",
        handler=export_usage,
        tag="usage",
        scope="usage:read",
        query=ExportQuery,
        answer=str,
        headers=("Content-Disposition",),
        media_types=tuple(EXPORT_TYPES.values()),
        problems=("customer_not_found", "not_acceptable"),
    )
]
