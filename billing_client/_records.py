"""What callers pass in and get back."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct, field

from billing_client.contract import wire
from billing_client.contract.statements import structs

DecimalLike: TypeAlias = Decimal | int | str
"""A number that holds its decimal digits exactly. A float does not, and is refused."""


# gc=False: text, numbers and times cannot form reference cycles, so the garbage collector need not track these
class Usage(Struct, frozen=True, kw_only=True, gc=False):
    """One use to record.

    Attributes:
        customer_id: Who used it: the id of a customer of the service, 1 to 128 characters.
        service: What was used, 1 to 200 characters.
        units_consumed: How much: a decimal with at most 38 digits, 18 of them after the point. Below 0 it is a
            credit, which needs an API key with the scope `usage:credit`.
        price_per_unit: The price of one unit, at least 0, within the same bounds.
        event_id: Your name for the use, 1 to 128 characters. Without one, usage with equal customer, service, units
            and price is the same usage.
        occurred_at: When it was used, with a time zone. By default the time at which the service receives it, or at
            which a recorder records it.
        dimensions: What else you bill or report by, such as `{"model": "large", "region": "eu"}`: at most 16 pairs,
            names of 1 to 64 characters, values of 1 to 200. Without an event id they are part of what makes usage the
            same.
    """

    customer_id: str
    service: str
    units_consumed: DecimalLike
    price_per_unit: DecimalLike
    event_id: str | None = None
    occurred_at: datetime | None = None
    dimensions: Mapping[str, str] | None = None


class UsageRecord(wire.UsageRecord[Decimal], frozen=True, gc=False):
    """One use, as stored.

    Attributes:
        request_id: The SHA-256 that identifies the usage, 64 lower-case hex digits.
        customer_id: Who used it.
        service: What was used.
        units_consumed: How much.
        price_per_unit: The price of one unit.
        amount: Units times price, exact.
        event_id: The caller's name for the use, if it gave one.
        occurred_at: When it was used, in UTC. It decides in which period the use is billed.
        recorded_at: When the service stored it, in UTC.
        voided_at: When it was voided; None if it counts.
        recorded_by: The API key that recorded it, as `bk_` and its id; None if the service needed none.
        dimensions: What else it is billed or reported by, by name; empty if nothing was given.
        outcome: What the call that returned the record did. It `recorded` it; it was a retry of the call that did
            (`replayed`); or another call had recorded it (`duplicate`). None if the record was only read.
    """

    dimensions: dict[str, str] = field(default_factory=dict)
    outcome: Literal["recorded", "replayed", "duplicate"] | None = None


class VoidedUsage(wire.VoidedUsage[Decimal], frozen=True):
    """A record that no longer counts; the attributes of UsageRecord, and these.

    Attributes:
        void_reason: Why it was voided.
        voided_by: The API key that voided it, as `bk_` and its id; `anonymous` if the service needed none.
        voided_for: On whose behalf, if the caller said so.
    """

    dimensions: dict[str, str] = field(default_factory=dict)


class Summary(wire.Summary[Decimal], frozen=True):
    """What a customer's usage adds up to, without what was voided.

    Attributes:
        from_: The begin that was asked for; None without one.
        to: The end that was asked for, which is not included; None without one.
        timezone: The IANA time zone of hours, days and months.
        currency: The currency of the amounts (ISO 4217).
        groups: The sums by what `group_by` named: `service`, `hour`, `day`, `month`, `records`, `units`, `amount`,
            `credits`.
        total: The sum of all: `records`, `units`, `amount`, `credits`. `amount` is what is owed. `units` is None where
            several services are in it, because their units make no sum. `credits` is the part with negative units:
            `records`, `units`, `amount`; None without any. So usage before credits is `amount - credits.amount`.
    """


class CustomerSummary(wire.CustomerSummary[Decimal], frozen=True):
    """What the usage of one of many customers adds up to: `customer_id`, and `groups` and `total` as in Summary."""


class Statement(structs.Statement[Decimal], frozen=True):
    """A customer's month, line by line.

    Attributes:
        customer_id: Whose month.
        customer_name: The customer's name.
        month: The month, such as "2026-11".
        timezone: The IANA time zone in which it begins and ends.
        from_: When it begins, in UTC.
        to: When it ends, in UTC; not included.
        currency: The currency of the amounts (ISO 4217).
        rounding: How the total is rounded.
        status: `provisional`, or `issued`: then it has a number and never changes.
        number: Its number, one higher than the customer's last; None if it is provisional.
        as_of: When it was read.
        issued_at: When it was issued; None if it is provisional.
        previous: The statement of the month that was issued last before it; None without any.
        digest: Names the content of the records that count in it.
        digest_kind: How the digest is made: `merkle.v1`, or `request-ids.v1` in earlier versions.
        lines: What is owed for each service and price: `records`, `units`, `amount`, exact.
        credits: The lines of credits, with negative units.
        total: The sum of the lines, credits included: `records`, `amount`, and `rounded` once.
        late: The part of the lines that was recorded after the month had ended.
        voided: The month's records that do not count.
        changes: What differs from the statement that `since` named, in an issued one from `previous`; else None.
        signature: The signature of an issued statement (JWS); None if the service had no key.
    """
