"""The structs of statements and proofs. As in `contract.wire`, `D` is how a side holds a decimal."""

from typing import Annotated, Any, Generic, Literal

import msgspec
from msgspec import Meta, field

from billing_client.contract.query_parameters import Month, Timezone
from billing_client.contract.wire import D, Message, Timestamp, UsageRecord, VoidedUsage

Digest = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}(?![\s\S])",
        description="64 lower-case hex digits. The digest of a statement names the content of the records that count "
        "in it, whatever its format. Of kind `merkle.v1` it is the root of a Merkle tree over their content hashes, "
        "of kind `request-ids.v1` the SHA-256 of their request ids, 32 bytes each, joined in ascending byte order.",
    ),
]
DigestKind = Literal["merkle.v1", "request-ids.v1"]


class StatementLine(Message, Generic[D], frozen=True):
    """What the records of one service at one price add up to; `amount` is units x price, exact. Credits have lines of
    their own, with negative units."""

    service: str
    price_per_unit: D
    records: int
    units: D
    amount: D


class StatementTotal(Message, Generic[D], frozen=True):
    """`amount` is exact; `rounded` is it, rounded once."""

    records: int
    amount: D
    rounded: D


class Rounding(Message, frozen=True):
    """How a total is rounded: half away from zero, to the digits of the currency's minor unit."""

    mode: Literal["half_up"]
    minor_unit: int


class VoidedTotal(Message, Generic[D], frozen=True):
    records: int
    amount: D


class StatementVoids(Message, Generic[D], frozen=True):
    """The month's records that do not count, by (voided at, request id): the last of them where there are `more`.
    The total is that of all."""

    data: list[VoidedUsage[D]]
    more: bool
    total: VoidedTotal[D]


class LineTotal(Message, Generic[D], frozen=True):
    records: int
    units: D
    amount: D


class LineChange(Message, Generic[D], frozen=True):
    """A line that differs between two statements; a statement without it has zeros."""

    service: str
    price_per_unit: D
    before: LineTotal[D]
    after: LineTotal[D]


class TotalChange(Message, Generic[D], frozen=True):
    """`difference` is after less before; its `rounded` is that of the rounded totals, so what is left to settle."""

    before: StatementTotal[D]
    after: StatementTotal[D]
    difference: StatementTotal[D]


class StatementChanges(Message, Generic[D], frozen=True, kw_only=True):
    """What became different since an earlier statement. `since` is its digest, of the kind `digest_kind`, and `number`
    its number; those of the kind `request-ids.v1` had none. `recorded` are the records that count now and did not then,
    `voided` those that counted then and do not now, by when that happened: the last of them where there are `more`."""

    since: Digest
    digest_kind: DigestKind
    number: int | None
    issued_at: Timestamp
    lines: list[LineChange[D]]
    total: TotalChange[D]
    recorded: list[UsageRecord[D]]
    voided: list[VoidedUsage[D]]
    more: bool


class StatementReference(Message, Generic[D], frozen=True):
    """A statement that was issued earlier for the same month and time zone."""

    number: int
    digest: Digest
    issued_at: Timestamp
    total: StatementTotal[D]


class Statement(Message, Generic[D], omit_defaults=True, frozen=True, kw_only=True):
    """A customer's month: `from_` is in, `to` is out. It is `provisional` until it is issued; then it has a `number`,
    one higher than the last of the customer, never changes, and `issued_at` says when. `as_of` is when it was read.
    `previous` is the statement of the month that was issued last before it. Lines are by service, then price; `credits`
    are those with negative units. `late` is the part of both that was recorded when the month was over. `signature` is
    a JWS (RFC 7515) with detached content: the statement without this member in the form of RFC 8785."""

    customer_id: str
    customer_name: str
    month: str
    timezone: str
    from_: Timestamp = msgspec.field(name="from")
    to: Timestamp
    currency: str
    rounding: Rounding
    status: Literal["provisional", "issued"]
    number: int | None = None
    as_of: Timestamp
    issued_at: Timestamp | None = None
    previous: StatementReference[D] | None = None
    digest: Digest
    digest_kind: DigestKind
    lines: list[StatementLine[D]]
    credits: list[StatementLine[D]] = msgspec.field(default_factory=list)
    total: StatementTotal[D]
    late: list[StatementLine[D]]
    voided: StatementVoids[D]
    changes: StatementChanges[D] | None = None
    signature: str | None = None


class StatementSummary(Message, Generic[D], omit_defaults=True, frozen=True, kw_only=True):
    """A customer's month in a list. `total` is that of the statement that was issued last, or as it stands where none
    was, and `signature` its signature, if it has one. `not_issued` is what has come since: what the next issue will
    show as a difference."""

    customer_id: str
    customer_name: str
    month: str
    timezone: str
    currency: str
    status: Literal["provisional", "issued"]
    number: int | None = None
    digest: Digest | None = None
    issued_at: Timestamp | None = None
    signature: str | None = None
    total: StatementTotal[D]
    not_issued: VoidedTotal[D] | None = None


class StatementSummaries(Message, Generic[D], frozen=True):
    """Customers with usage in a month, by customer id."""

    data: list[StatementSummary[D]]
    next_cursor: str | None


class IssuedStatement(Message, Generic[D], frozen=True, kw_only=True):
    """A statement that was issued, in a list. The statement itself is read by its number or digest. `signature` is null
    where the service had no key to sign it with."""

    customer_id: str
    number: int
    month: str
    timezone: str
    digest: Digest
    issued_at: Timestamp
    issued_by: str | None
    signature: str | None = None
    total: StatementTotal[D]


class IssuedStatements(Message, Generic[D], frozen=True):
    """The statements that were issued to a customer, by number."""

    data: list[IssuedStatement[D]]
    next_cursor: str | None


class NewStatement(Message, forbid_unknown_fields=True, frozen=True):
    """Which month to issue a statement for: such as 2026-11, in a time zone of the IANA database."""

    month: Month
    timezone: Timezone = "UTC"


class NewStatements(NewStatement, forbid_unknown_fields=True, frozen=True):
    """Which month to issue statements of all customers for, and where to go on: the `nextCursor` of the call before."""

    cursor: str | None = None


class StatementProgress(Message, frozen=True):
    """A statement is being prepared: its month has so many records, and so many of them are summed up and hashed. Ask
    again after the seconds in `Retry-After`."""

    records: int
    prepared: int


class IssueFailure(Message, frozen=True):
    """A customer whose statement could not be issued, and why: `code` and `detail` are those of the problem that
    issuing it alone is answered with."""

    customer_id: str
    code: str
    detail: str


class IssueProgress(Message, Generic[D], frozen=True, kw_only=True):
    """What a call that issues statements of all customers has done: those it issued, how many were `unchanged` since
    they were issued, those that `failed`, and where to go on; `nextCursor` is null once all customers are done. Where a
    month has so many records that its statement is still being prepared, `preparing` says how far that is."""

    issued: list[IssuedStatement[D]]
    unchanged: int
    failed: list[IssueFailure] = field(default_factory=list)  # an older service does not send it
    preparing: StatementProgress | None
    next_cursor: str | None


class PiecePlace(Message, frozen=True):
    """Where a record is in its piece of a statement. `start` is when the piece begins, `records` how many count in it,
    `index` which of them this is, from 0, and `path` its audit path, from the leaf upwards, in lower-case hex."""

    start: Timestamp
    records: Annotated[int, Meta(ge=1)]
    index: Annotated[int, Meta(ge=0)]
    path: list[Digest]


class InclusionProof(Message, Generic[D], frozen=True):
    """That a record counts in the statement with a digest: its place in its piece, and that of the piece among the
    `pieces` of the statement. `contentHash` is the SHA-256 of the record's content, in lower-case hex."""

    digest: Digest
    content_hash: Digest
    record: UsageRecord[D]
    piece: PiecePlace
    pieces: Annotated[int, Meta(ge=1)]
    index: Annotated[int, Meta(ge=0)]
    path: list[Digest]


class JsonWebKeySet(Message, frozen=True):
    """Public keys in JSON (RFC 7517). The first one signs; the others signed earlier."""

    keys: list[dict[str, Any]]
