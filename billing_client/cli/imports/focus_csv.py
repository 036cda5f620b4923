"""A cloud bill in FOCUS 1.0 CSV (https://focus.finops.org).

SubAccountId is the customer, ServiceName the service, ConsumedQuantity the units, ListUnitPrice the price,
ChargePeriodStart the time (UTC, as FOCUS has it), and the line's Id, where it has one, the event id. A line with a
negative quantity is a credit. Other columns become dimensions if the caller says so.
"""

from datetime import UTC

from billing_client import Usage
from billing_client.cli.imports.csv_tables import CsvSource, read_instant
from billing_client.cli.imports.lines import SourceRecord


class FocusBill(CsvSource):
    """The lines of a bill that say what was used; the columns that say the rest are left alone."""

    name = "FOCUS bill"
    names_customers = True
    required = ("SubAccountId", "ServiceName", "ConsumedQuantity", "ListUnitPrice", "ChargePeriodStart")
    optional = ("SubAccountName", "Id")

    def read(self, number: int, source: str, cells: dict[str, str]) -> SourceRecord:
        """See CsvSource."""
        given = {name: "" if cell == "NULL" else cell for name, cell in cells.items()}
        if empty := [name for name in self.required if not given[name]]:
            raise ValueError(f"it has no {', '.join(empty)}")
        usage = Usage(
            customer_id=given["SubAccountId"],
            service=given["ServiceName"],
            units_consumed=given["ConsumedQuantity"],
            price_per_unit=given["ListUnitPrice"],
            event_id=given.get("Id") or None,
            occurred_at=read_instant("ChargePeriodStart", given["ChargePeriodStart"], self._zone or UTC),
            dimensions=self.dimensions_of(given),
        )
        return SourceRecord(number=number, source=source, usage=usage, customer_name=given.get("SubAccountName"))
