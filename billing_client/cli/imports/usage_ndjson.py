"""Usage as NDJSON: an object a line, as the API takes it, or as the service exports it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from billing_client import Usage
from billing_client.cli.imports.lines import TOO_LONG, SourceRecord, TextLines, checked
from billing_client.contract.decoding import (
    read_decimal,
    read_dimensions,
    read_optional_timestamp,
    read_units,
)
from billing_client.contract.object_decoding import ObjectDecoder
from billing_client.contract.problems import ProblemError
from billing_client.contract.timestamps import read_timestamp
from billing_client.contract.wire import printable


class _Object(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A line: what a report has, and what an export has besides."""

    customer_id: str
    service: str
    units_consumed: Raw
    price_per_unit: Raw
    event_id: str | None = None
    occurred_at: str | None = None
    dimensions: Raw = Raw(b"null")
    request_id: str | None = None
    amount: Any = None
    recorded_at: Any = None
    recorded_by: Any = None
    voided_at: str | None = None
    outcome: Any = None


class _Note(Struct, forbid_unknown_fields=True):
    """What stands before each line in a file of lines that are left: its number in the file it is from, and why."""

    line: int
    reason: str


_decode = ObjectDecoder[_Object](
    _Object,
    {
        "unitsConsumed": partial(read_units, may_credit=True),
        "pricePerUnit": read_decimal,
        "occurredAt": read_optional_timestamp,
        "dimensions": read_dimensions,
    },
)
_decode_note = msgspec.json.Decoder(_Note).decode


class UsageNdjson:
    """Usage as NDJSON. A member that it does not know is refused: `event_id` must not pass for no event id."""

    suffix = "ndjson"
    names_customers = False

    def __init__(self, lines: TextLines) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[SourceRecord]:
        """See UsageSource."""
        for text in self._lines:
            number, stripped = self._lines.number, text.strip()
            if rest := self._lines.rest():
                yield SourceRecord(number=number, source=text, rest=rest, fault=TOO_LONG)
            elif stripped and not _is_note(stripped):
                try:
                    yield _read(number, text)
                except ProblemError as error:
                    faults = error.details.errors or []
                    fault = "; ".join(f"{each.pointer}: {each.message}".removeprefix(": ") for each in faults)
                    yield SourceRecord(number=number, source=text, fault=fault)

    def heading(self) -> str:
        """See UsageSource."""
        return ""

    def left(self, line: SourceRecord, reason: str) -> Iterator[str]:
        """See UsageSource. The number and the reason are a line before it, which an import passes over."""
        yield msgspec.json.encode(_Note(line.number, printable(reason))).decode() + "\n"
        yield from line.text()


def _is_note(text: str) -> bool:
    if not text.startswith('{"line":'):
        return False
    try:
        _decode_note(text)
    except ValueError:
        return False
    return True


def _read(number: int, source: str) -> SourceRecord:
    """What a line says. Raises ProblemError."""
    data = source.strip().encode("utf-8", "surrogateescape")
    given = _decode(data)
    try:
        units, price = read_units(given.units_consumed, may_credit=True), read_decimal(given.price_per_unit)
        occurred_at = None if given.occurred_at is None else read_timestamp(given.occurred_at)
        dimensions = read_dimensions(given.dimensions)
    except ValueError as error:
        raise _decode.refusal(data) from error
    usage = Usage(
        customer_id=given.customer_id,
        service=given.service,
        units_consumed=units,
        price_per_unit=price,
        event_id=given.event_id,
        occurred_at=occurred_at,
        dimensions=dimensions,
    )
    line = SourceRecord(number=number, source=source, usage=usage, is_voided=given.voided_at is not None)
    return checked(line, given.request_id)
