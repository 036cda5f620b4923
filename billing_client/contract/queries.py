"""The query of each address. Of a span `from_` is in, `to` is out."""

from typing import Annotated

from msgspec import Meta, Struct

from billing_client.wire import MAX_PAGE, Id, Name, Timestamp


class NoQuery(Struct):
    """The query of an address that takes none."""


class CustomersQuery(Struct):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: str | None = None


class BatchQuery(Struct, rename="camel"):
    dry_run: bool = False


class UsageQuery(Struct, rename={"from_": "from"}):
    service: Name | None = None
    from_: Timestamp | None = None
    to: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: str | None = None


class ExportQuery(Struct, rename={"from_": "from", "customer_id": "customerId"}):
    customer_id: Id | None = None
    service: Name | None = None
    from_: Timestamp | None = None
    to: Timestamp | None = None
    format: str | None = None


class SummaryQuery(Struct, rename={"from_": "from", "group_by": "groupBy"}):
    """`group_by` is any of service, hour, day, month, with commas between."""

    from_: Timestamp | None = None
    to: Timestamp | None = None
    group_by: str = ""
    timezone: str = "UTC"


class SummariesQuery(SummaryQuery, rename={"from_": "from", "group_by": "groupBy"}):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: str | None = None


class StatementQuery(Struct):
    month: str = ""
    timezone: str = "UTC"
    since: str | None = None
    format: str | None = None
