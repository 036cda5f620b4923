"""Renders a statement as CSV for spreadsheets, and as an HTML page to read and print."""

import csv
import io
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from billing_client.contract.csv_cells import disarm
from billing_client.contract.statements.structs import (
    LineChange,
    Statement,
    StatementChanges,
    StatementLine,
    StatementTotal,
)
from billing_client.contract.wire import UsageRecord, VoidedUsage
from billing_service.rendering.formats import cell, moment, month_name, number, padding, places

_COLUMNS = (
    *("row", "customerId", "month", "timezone", "currency", "service", "pricePerUnit", "records", "units", "amount"),
    *(
        "rounded",
        "requestId",
        "eventId",
        "occurredAt",
        "recordedAt",
        "dimensions",
        "voidedAt",
        "voidReason",
        "voidedBy",
        "voidedFor",
        "digest",
    ),
    "issuedAt",
    "status",
    "number",
    "digestKind",
    "signature",
)
Row = dict[str, str | int | None]


def render_csv(statement: Statement[str]) -> bytes:
    """The statement as one CSV table in UTF-8.

    The column `row` names the kind of each row: line, total, late line, voided record or change.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS)
    writer.writeheader()
    frame: Row = {
        "customerId": disarm(statement.customer_id),
        "month": statement.month,
        "timezone": disarm(statement.timezone),
        "currency": statement.currency,
    }
    writer.writerows(frame | row for row in _rows(statement))
    return file.getvalue().encode()


def _rows(statement: Statement[str]) -> Iterator[Row]:
    yield from _line_rows("line", statement.lines)
    yield from _line_rows("credit", statement.credits)
    yield _total_row("total", statement.total, statement.digest, statement.issued_at) | {
        "status": statement.status,
        "number": statement.number,
        "digestKind": statement.digest_kind,
        "signature": statement.signature,
    }
    yield from _line_rows("late", statement.late)
    yield from _record_rows("voided", statement.voided.data, statement.voided.more)
    yield {"row": "voidedTotal", "records": statement.voided.total.records, "amount": statement.voided.total.amount}
    if statement.changes is not None:
        yield from _change_rows(statement.changes)


def _change_rows(changes: StatementChanges[str]) -> Iterator[Row]:
    for change in changes.lines:
        yield from _line_rows("before", [_side(change, "before")])
        yield from _line_rows("after", [_side(change, "after")])
    yield _total_row("totalBefore", changes.total.before, changes.since, changes.issued_at) | {
        "number": changes.number,
        "digestKind": changes.digest_kind,
    }
    yield _total_row("totalDifference", changes.total.difference)
    yield from _record_rows("recordedSince", changes.recorded, changes.more)
    yield from _record_rows("voidedSince", changes.voided, changes.more)


def _side(change: LineChange[str], side: str) -> StatementLine[str]:
    sums = getattr(change, side)
    return StatementLine(
        service=change.service,
        price_per_unit=change.price_per_unit,
        records=sums.records,
        units=sums.units,
        amount=sums.amount,
    )


def _line_rows(kind: str, lines: Iterable[StatementLine[str]]) -> Iterator[Row]:
    for line in lines:
        yield {
            "row": kind,
            "service": disarm(line.service),
            "pricePerUnit": line.price_per_unit,
            "records": line.records,
            "units": line.units,
            "amount": line.amount,
        }


def _total_row(
    kind: str, total: StatementTotal[str], digest: str | None = None, issued_at: datetime | None = None
) -> Row:
    return {
        "row": kind,
        "records": total.records,
        "amount": total.amount,
        "rounded": total.rounded,
        "digest": digest,
        "issuedAt": _utc(issued_at),
    }


def _record_rows(kind: str, records: Iterable[UsageRecord[str]], more: bool) -> Iterator[Row]:
    for record in records:
        row: Row = {
            "row": kind,
            "service": disarm(record.service),
            "pricePerUnit": record.price_per_unit,
            "units": record.units_consumed,
            "amount": record.amount,
            "requestId": record.request_id,
            "eventId": disarm(record.event_id or ""),
            "occurredAt": _utc(record.occurred_at),
            "recordedAt": _utc(record.recorded_at),
            "dimensions": disarm(msgspec.json.encode(record.dimensions or {}).decode()) if record.dimensions else None,
            "voidedAt": _utc(record.voided_at),
        }
        if isinstance(record, VoidedUsage):
            row |= {"voidReason": disarm(record.void_reason), "voidedBy": disarm(record.voided_by)}
            row |= {"voidedFor": disarm(record.voided_for or "")}
        yield row
    if more:
        yield {"row": f"{kind}More"}


def _utc(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat().replace("+00:00", "Z")


def render_html(statement: Statement[str]) -> bytes:
    """The statement as an HTML page that loads nothing from other addresses."""
    return _TEMPLATE.render(s=statement, zone=ZoneInfo(statement.timezone)).encode()


def _month_name(month: str) -> str:
    return month_name(date.fromisoformat(f"{month}-01"))


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"number": number, "padding": padding, "moment": moment, "month_name": _month_name}
_templates.globals |= {"cell_of": cell, "places": places}
_TEMPLATE = _templates.get_template("statement.html")
STYLE_SOURCE = (
    f"'sha256-{b64encode(sha256(_templates.get_template('statement.css').render().encode()).digest()).decode()}'"
)
"""The hash of the page's style sheet, as a source in a Content-Security-Policy."""
