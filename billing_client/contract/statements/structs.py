"""The structs of statements and proofs. As in `contract.wire`, `D` is how a side holds a decimal."""

from typing import Annotated, Generic, Literal

import msgspec
from msgspec import Meta

from billing_client.contract.wire import D, Message, Timestamp, UsageRecord, VoidedUsage

Digest = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}(?![\s\S])",
        description="Names the set of records that count in a statement, whatever its time zone or format: lower-case "
        "hex SHA-256 of their request ids, 32 bytes each, joined in ascending byte order.",
    ),
]


class StatementLine(Message, Generic[D], frozen=True):
    """What the records of one service at one price add up to; `amount` is units x price, exact."""

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


class StatementChanges(Message, Generic[D], frozen=True):
    """What became different since the statement with the digest `since` was issued. `recorded` and `voided` are the
    records that came in or were voided meanwhile, in that order: the last of them where there are `more`. What was
    recorded and voided again is in both, and in no line."""

    since: Digest
    issued_at: Timestamp
    lines: list[LineChange[D]]
    total: TotalChange[D]
    recorded: list[UsageRecord[D]]
    voided: list[VoidedUsage[D]]
    more: bool


class Statement(Message, Generic[D], omit_defaults=True, frozen=True, kw_only=True):
    """A customer's month: `from_` is in, `to` is out. Lines are by service, then price. `late` is the part of them that
    was recorded when the month was over. `issued_at` is when a statement with this digest was first issued."""

    customer_id: str
    customer_name: str
    month: str
    timezone: str
    from_: Timestamp = msgspec.field(name="from")
    to: Timestamp
    currency: str
    rounding: Rounding
    issued_at: Timestamp
    digest: Digest
    lines: list[StatementLine[D]]
    total: StatementTotal[D]
    late: list[StatementLine[D]]
    voided: StatementVoids[D]
    changes: StatementChanges[D] | None = None


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
