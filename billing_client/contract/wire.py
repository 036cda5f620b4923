"""The structs both sides exchange. JSON is camelCase, Python is snake_case; decimals travel as strings.

`D` is how a side holds a decimal: the service as the text it stores, the client as `decimal.Decimal`.
"""

import re
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

D = TypeVar("D")

# a look-ahead, since "$" would let a final newline pass in Python though not in ECMA-262, which JSON Schema speaks
NO_CONTROL_CHARACTERS = r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f])"
MAX_BATCH_RECORDS = 10_000
MAX_PAGE = 1_000
MAX_GROUPS = 50_000  # on a page of summaries
MAX_ID_LENGTH, MAX_NAME_LENGTH = 128, 200
MAX_DIMENSIONS, MAX_DIMENSION_NAME_LENGTH = 16, 64

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
DimensionName = Annotated[str, Meta(min_length=1, max_length=MAX_DIMENSION_NAME_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
Dimensions = Annotated[
    dict[DimensionName, Name],
    Meta(
        max_length=MAX_DIMENSIONS,
        description="What else the usage is billed or reported by, such as model, region and project: up to 16 pairs "
        "of text. No pairs are as none given.",
    ),
]
Reason = Annotated[str, Meta(min_length=1, max_length=1000, pattern=NO_CONTROL_CHARACTERS)]
Timestamp = Annotated[datetime, Meta(tz=True)]
OccurredAt = Annotated[
    datetime,
    Meta(
        tz=True,
        description="An RFC 3339 time, at most 5 minutes ahead. What is finer than microseconds is cut off; a leap "
        "second counts as the last microsecond before it, the first day of year 1 as its end.",
    ),
]
Outcome = Literal["recorded", "replayed", "duplicate", "conflict", "rejected", "recordable"]


class Message(Struct, rename="camel", kw_only=True, frozen=True):
    """The base of every struct on the wire."""


class NewCustomer(Message, forbid_unknown_fields=True, frozen=True):
    name: Name
    id: Id | None = None


class CustomerChange(Message, forbid_unknown_fields=True, frozen=True):
    name: Name


class Customer(Message, frozen=True):
    """A customer; `updated_at` is when the name last changed."""

    id: str
    name: str
    created_at: Timestamp
    updated_at: Timestamp


class NewUsage(Message, Generic[D], forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """One line of usage, as reported. With units below zero it is a credit, for callers with the scope `usage:credit`.
    Without `occurred_at` it occurred when the service received it."""

    customer_id: Id
    service: Name
    units_consumed: D
    price_per_unit: Annotated[D, Meta(extra_json_schema={"minimum": 0})]
    event_id: Id | None = None
    occurred_at: OccurredAt | None = None
    dimensions: Dimensions | None = None


# Without the garbage collector (gc=False): it holds text, numbers and times, and is in no cycle.
class UsageRecord(Message, Generic[D], frozen=True, gc=False):
    """One line of usage, as stored.

    `amount` is units x price, exact. `voided_at` is set when the record no longer counts. `recorded_by` is the API key
    that recorded it, as `bk_` and its id; None where none was needed. `dimensions` are by name, in the order of code
    points; a record without any has no such member.
    """

    request_id: str
    customer_id: str
    service: str
    units_consumed: D
    price_per_unit: D
    amount: D
    event_id: str | None
    occurred_at: Timestamp
    recorded_at: Timestamp
    voided_at: Timestamp | None = None
    recorded_by: str | None = None
    dimensions: dict[str, str] | UnsetType = UNSET


class NewVoid(Message, forbid_unknown_fields=True, frozen=True):
    """Why a record no longer counts, and on whose behalf. Which API key voids it is noted without being told."""

    reason: Reason
    voided_for: Name | None = None


class VoidedUsage(UsageRecord[D], frozen=True, kw_only=True):
    """A record that no longer counts. `voided_by` is the API key that voided it; `anonymous` where none was needed."""

    void_reason: str
    voided_by: str
    voided_for: str | None = None


class CreditTotal(Message, Generic[D], frozen=True):
    """What credits add up to: `units` and `amount` are negative, or zero. `units` are null where several services are
    in it."""

    records: int
    units: D | None
    amount: D


class SummaryGroup(Message, Generic[D], omit_defaults=True, frozen=True, kw_only=True):
    """What the usage of one group adds up to. `hour` (RFC 3339), `day` (2026-11-30) and `month` (2026-11) are in the
    summary's time zone; only the members asked for by `groupBy` are there. `units` are null where several services are
    in the group: their units make no sum. `credits` are the part of these sums that has negative units. `dimensions`
    are the values of those asked for; null is for records without them."""

    service: str | None = None
    hour: str | None = None
    day: str | None = None
    month: str | None = None
    dimensions: dict[str, str | None] | None = None
    records: int
    units: D | None
    amount: D
    credits: CreditTotal[D] | None = None


class SummaryTotal(Message, Generic[D], omit_defaults=True, frozen=True):
    """What all groups add up to: `amount` is what is owed. `units` are null where several services are in it: their
    units make no sum. `credits` are the part of these sums that has negative units, where there is any."""

    records: int
    units: D | None
    amount: D
    credits: CreditTotal[D] | None = None


class Summary(Message, Generic[D], frozen=True):
    """What a customer's usage adds up to, less what was voided. `from_` is in, `to` is out; null is without bound.
    `groups` are a page of them, by period, then service; `total` is that of all pages."""

    from_: Timestamp | None = msgspec.field(name="from")
    to: Timestamp | None
    timezone: str
    currency: str
    groups: list[SummaryGroup[D]]
    total: SummaryTotal[D]
    next_cursor: str | None = None


class CustomerSummary(Message, Generic[D], frozen=True):
    """What the usage of one of many customers adds up to. A customer with more groups than fit on a page is on several
    pages, each time with the total of all its groups."""

    customer_id: str
    groups: list[SummaryGroup[D]]
    total: SummaryTotal[D]


class SummaryPage(Message, Generic[D], frozen=True):
    """What the usage of a page of customers adds up to, by customer id."""

    from_: Timestamp | None = msgspec.field(name="from")
    to: Timestamp | None
    timezone: str
    currency: str
    data: list[CustomerSummary[D]]
    next_cursor: str | None


class FieldError(Message, frozen=True):
    """One fault of the input. `pointer` is an RFC 6901 JSON Pointer into the body; `query/NAME`, `header/NAME`
    and `path/NAME` name the other parts of a request."""

    pointer: str
    message: str


class FieldConflict(Message, omit_defaults=True, frozen=True):
    """One field in which the same event id came with other data. A dimension is named as in `dimensions.model`, and the
    side that does not have it holds an empty text. `recorded` is left out for a caller who may not read usage; the
    dimensions that such a caller did not send are one field, `dimensions`."""

    field: str
    submitted: str
    recorded: str | None = None


class ProblemDetails(Message, Generic[D], omit_defaults=True, frozen=True):
    """An RFC 9457 problem, with this service's extension members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[FieldError] | None = None
    existing: UsageRecord[D] | None = None
    conflicts: list[FieldConflict] | None = None
    trace_id: str | None = None


class Refusal(Message, frozen=True, kw_only=True):
    """Usage that was refused: an event id that came back with other data, input that is not valid, an unknown customer.

    `customer_id` is the customer as stated, or the one that the API key is bound to; None where none could be read.
    `submitted_by` is the API key, as `bk_` and its id. `errors` are at most 10. `submitted` is the begin of what was
    sent.
    """

    id: str
    refused_at: Timestamp
    code: str
    customer_id: str | None
    submitted_by: str | None
    request_id: str | None
    event_id: str | None
    errors: list[FieldError] | None
    conflicts: list[FieldConflict] | None
    submitted: str


class RefusalPage(Message, frozen=True):
    """Refusals, latest first."""

    data: list[Refusal]
    next_cursor: str | None


class RefusalCount(Message, frozen=True, kw_only=True):
    """How many refusals with one code one API key has got, and when the last."""

    submitted_by: str | None
    code: str
    refusals: int
    last_refused_at: Timestamp


class RefusalCounts(Message, frozen=True):
    """Refusals by API key and code, the most first; at most 1,000 of these groups."""

    data: list[RefusalCount]


class ChangeEvent(Message, frozen=True):
    """The data of an event: the customers of which something changed, and whether there are more that are not named."""

    customer_ids: list[str]
    more: bool = False


class BatchResult(Message, Generic[D], omit_defaults=True, frozen=True):
    """What became of one record of a batch: with the record, or the problem the single call would have got."""

    outcome: Outcome
    record: UsageRecord[D] | None = None
    problem: ProblemDetails[D] | None = None


class BatchResults(Message, Generic[D], frozen=True):
    results: list[BatchResult[D]]


class Batch(Message, forbid_unknown_fields=True, frozen=True):
    """Many uses. Each record is a NewUsage; one that is not is refused by itself and harms no other."""

    records: Annotated[
        list[msgspec.Raw],  # still bytes, so that a bad one cannot harm its neighbours
        Meta(extra_json_schema={"maxItems": MAX_BATCH_RECORDS}),  # the decoder says so of a body that has more
    ]


class CustomerPage(Message, frozen=True):
    data: list[Customer]
    next_cursor: str | None


class UsagePage(Message, Generic[D], frozen=True):
    data: list[UsageRecord[D]]
    next_cursor: str | None


# what a terminal obeys, or shows as nothing: controls, line separators, every format character (which changes the
# direction of writing, or joins and hides letters), fillers and other blanks, lone surrogates
UNPRINTABLE = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_unprintable = re.compile(f"[{UNPRINTABLE}]")


def printable(text: str) -> str:
    """Write what a terminal would obey or hide rather than show, such as an escape code, as a backslash escape.

    A backslash stays as it is: what this writes is to be read by people.
    """
    return _unprintable.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def readable(error: Exception) -> str:
    """Say what is wrong with a value in words for whoever sent it."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeError):
        return "is not valid UTF-8"
    message = str(error)
    if message == "Input data was truncated":
        return "is not whole JSON, or holds half a surrogate pair"
    return "must not hold control characters" if "matching regex" in message else message
