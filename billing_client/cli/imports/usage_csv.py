"""Usage in CSV, its columns named as the members of the API: as anyone writes it, or as the service exports it."""

from collections.abc import Mapping
from datetime import tzinfo

import msgspec

from billing_client import Usage, UsageRecord
from billing_client.cli.imports.csv_tables import EXTRA, CsvSource, Table, read_instant
from billing_client.cli.imports.lines import InputError, SourceRecord, checked
from billing_client.contract.csv_cells import rearm
from billing_client.contract.decoding import read_dimensions
from billing_client.contract.wire import NewUsage

_FIELDS = msgspec.structs.fields(NewUsage)
_EXPORTED = [field.encode_name for field in msgspec.structs.fields(UsageRecord)]  # `record --json` adds the outcome


class UsageCsv(CsvSource):
    """Usage in CSV. A column that it does not know is refused: `event_id` must not pass for no event id.

    Cells of an export, known by its requestId, have an apostrophe before what a spreadsheet would run.
    """

    name = "CSV of usage"
    required = tuple(field.encode_name for field in _FIELDS if field.required)
    optional = (
        *(field.encode_name for field in _FIELDS if not field.required),
        *(name for name in _EXPORTED if name not in {field.encode_name for field in _FIELDS}),
    )

    def __init__(self, table: Table, zone: tzinfo | None, dimensions: Mapping[str, str] | None = None) -> None:
        super().__init__(table, zone, dimensions)
        known = (*self.required, *self.optional, *EXTRA, *self._dimensions.values())
        if unknown := [name for name in table.header if name not in known]:
            raise InputError(f"its first line names {unknown[0][:100]!r}, but takes only {', '.join(known)}")
        self._is_export = "requestId" in table.header

    def read(self, number: int, source: str, cells: dict[str, str]) -> SourceRecord:
        """See CsvSource."""
        given = {name: rearm(cell) for name, cell in cells.items()} if self._is_export else cells
        if empty := [name for name in self.required if not given[name]]:
            raise ValueError(f"it has no {', '.join(empty)}")
        occurred_at = given.get("occurredAt")
        usage = Usage(
            customer_id=given["customerId"],
            service=given["service"],
            units_consumed=given["unitsConsumed"],
            price_per_unit=given["pricePerUnit"],
            event_id=given.get("eventId") or None,
            occurred_at=read_instant("occurredAt", occurred_at, self._zone) if occurred_at else None,
            dimensions=(_read_dimensions(given["dimensions"]) if given.get("dimensions") else {})
            | self.dimensions_of(given),
        )
        line = SourceRecord(number=number, source=source, usage=usage, is_voided=bool(given.get("voidedAt")))
        return checked(line, given.get("requestId"))


def _read_dimensions(cell: str) -> dict[str, str]:
    """The dimensions that a cell holds as a JSON object. Raises ValueError."""
    try:
        return read_dimensions(memoryview(cell.encode("utf-8", "surrogateescape")))
    except ValueError as error:
        raise ValueError(f"dimensions: {error}") from error
