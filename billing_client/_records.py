"""What callers hand in and get back."""

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from billing_client.contract import wire

DecimalLike: TypeAlias = Decimal | int | str
"""A number that holds its digits exactly. A float does not, and is refused."""


# what holds no more than text, numbers and times is in no cycle: the collector need not look at it (gc=False)
class Usage(Struct, frozen=True, kw_only=True, gc=False):
    """One line of usage to record. `occurred_at` needs a time zone; without it, it is when the service gets it.

    Without an `event_id`, usage with equal customer, service, units and price is the same usage.
    """

    customer_id: str
    service: str
    units_consumed: DecimalLike
    price_per_unit: DecimalLike
    event_id: str | None = None
    occurred_at: datetime | None = None


class UsageRecord(wire.UsageRecord[Decimal], frozen=True, gc=False):
    """One line of usage, as stored.

    `outcome` says what the call that returned it did: it `recorded` it, it was a retry of the call that did
    (`replayed`), or another call had recorded it (`duplicate`); None where it was only read.
    """

    outcome: Literal["recorded", "replayed", "duplicate"] | None = None


class VoidedUsage(wire.VoidedUsage[Decimal], frozen=True):
    """A record that no longer counts: `void_reason` and `voided_by` say why and by whom, `voided_at` since when."""


class Summary(wire.Summary[Decimal], frozen=True):
    """What a customer's usage adds up to, less what was voided."""


class CustomerSummary(wire.CustomerSummary[Decimal], frozen=True):
    """What the usage of one of many customers adds up to."""


class Statement(wire.Statement[Decimal], frozen=True):
    """A customer's month, line by line, with its digest."""
