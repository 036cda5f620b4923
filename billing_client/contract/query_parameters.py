"""The query of each address. Of a span `from_` is in, `to` is out."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from billing_client.contract.wire import MAX_GROUPS, MAX_PAGE, DimensionName, Id, Name, Timestamp

EXPORT_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
STATEMENT_TYPES = {
    "json": "application/json",
    "csv": "text/csv",
    "html": "text/html",
    "pdf": "application/pdf",
}

DIMENSION = "dimension."  # begins a parameter, or a member of groupBy, that names a dimension
DIMENSION_FILTERS = f"{DIMENSION}*"  # stands for the parameters that begin so
_MEMBER = r"(service|hour|day|month|dimension\.[^,]{1,64})"
# what a schema says of a parameter, where the code that reads it says more than msgspec could
Cursor = Annotated[
    str, Meta(description="The `nextCursor` of the page before.", extra_json_schema={"format": "cursor"})
]
Timezone = Annotated[
    str, Meta(description="A name in the IANA time zone database.", extra_json_schema={"format": "iana-timezone"})
]
GroupBy = Annotated[
    str,
    Meta(
        description="What to tell apart: any of service, hour, day and month, and up to two dimensions, such as "
        "dimension.model, with commas between.",
        extra_json_schema={"pattern": f"^({_MEMBER}(,{_MEMBER})*)?$"},
    ),
]
DimensionFilters = Annotated[
    dict[DimensionName, Name],
    Meta(
        description="Only records with this value of this dimension: `dimension.model=large`. Repeatable, for several."
    ),
]
Month = Annotated[
    str,
    Meta(
        description="A month such as 2026-11.",
        examples=["2026-11"],
        extra_json_schema={"pattern": "^(?!0000|9999)[0-9]{4}-(0[1-9]|1[0-2])$"},
    ),
]
StatementDigest = Annotated[
    str,
    Meta(
        description="The digest of an earlier statement of the month.",
        extra_json_schema={"pattern": "^[0-9a-f]{64}$"},
    ),
]
ExportFormat = Annotated[str, Meta(extra_json_schema={"enum": list(EXPORT_TYPES)})]
StatementFormat = Annotated[str, Meta(extra_json_schema={"enum": list(STATEMENT_TYPES)})]


_NAMES = {
    "dimensions": DIMENSION_FILTERS,
    "group_by": "groupBy",
    "from_": "from",
    "customer_id": "customerId",
    "request_id": "requestId",
    "event_id": "eventId",
}


class NoQuery(Struct):
    """The query of an address that takes none."""


class CustomersQuery(Struct):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = None


class BatchQuery(Struct, rename="camel"):
    dry_run: bool = False


class UsageQuery(Struct, rename=_NAMES):
    service: Name | None = None
    event_id: Annotated[Id | None, Meta(description="Only the record with this event id.")] = None
    dimensions: DimensionFilters = field(default_factory=dict)
    from_: Timestamp | None = None
    to: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = None


KeyName = Annotated[
    str,
    Meta(
        description="An API key, as `bk_` and its id.",
        examples=["bk_0123456789abcdef"],
        extra_json_schema={"pattern": "^bk_[0-9a-f]{16}$"},
    ),
]
RequestId = Annotated[str, Meta(description="A request id.", extra_json_schema={"pattern": "^[0-9a-f]{64}$"})]
RefusalCode = Literal["validation_error", "customer_not_found", "event_id_conflict"]


class RefusalsQuery(Struct, rename=_NAMES):
    code: RefusalCode | None = None
    customer_id: Id | None = None
    key: KeyName | None = None
    request_id: RequestId | None = None
    event_id: Id | None = None
    from_: Timestamp | None = None
    to: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = None


class RefusalCountsQuery(Struct, rename={"from_": "from", "customer_id": "customerId"}):
    customer_id: Id | None = None
    from_: Timestamp | None = None
    to: Timestamp | None = None


class EventsQuery(Struct, rename={"customer_id": "customerId"}):
    customer_id: Id | None = None
    seconds: Annotated[int, Meta(ge=1, le=86_400, description="After how many seconds the stream ends.")] = 86_400


class ExportQuery(Struct, rename=_NAMES):
    customer_id: Id | None = None
    service: Name | None = None
    dimensions: DimensionFilters = field(default_factory=dict)
    from_: Timestamp | None = None
    to: Timestamp | None = None
    format: ExportFormat | None = None


class SummaryQuery(Struct, rename=_NAMES):
    dimensions: DimensionFilters = field(default_factory=dict)
    from_: Timestamp | None = None
    to: Timestamp | None = None
    group_by: GroupBy = ""
    timezone: Timezone = "UTC"
    limit: Annotated[int, Meta(ge=1, le=MAX_GROUPS, description="The most groups on a page.")] = MAX_GROUPS
    cursor: Cursor | None = None


class SummariesQuery(SummaryQuery, rename=_NAMES):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="The most customers on a page.")] = 100


class StatementQuery(Struct):
    month: Month
    timezone: Timezone = "UTC"
    since: StatementDigest | None = None
    format: StatementFormat | None = None


class IssuedStatementQuery(Struct):
    format: StatementFormat | None = None


class IssuedStatementsQuery(Struct):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = None


class StatementsQuery(Struct):
    month: Month
    timezone: Timezone = "UTC"
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="The most customers on a page.")] = 100
    cursor: Cursor | None = None


class ProofQuery(Struct):
    digest: StatementDigest
    timezone: Timezone = "UTC"
