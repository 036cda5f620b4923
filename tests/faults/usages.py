"""The usage that producers report: made up, each line of it the same whenever it is made again from the same seed."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from billing_client import Usage

CUSTOMERS = tuple(f"customer-{number}" for number in range(10))
SERVICES = ("compute", "requests", "storage")
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Line(Struct, array_like=True, frozen=True):
    """One line of usage, as a journal keeps it."""

    customer_id: str
    service: str
    units: Decimal
    price: Decimal
    event_id: str | None
    occurred_at: datetime

    def usage(self) -> Usage:
        """What the client takes."""
        return Usage(
            customer_id=self.customer_id,
            service=self.service,
            units_consumed=self.units,
            price_per_unit=self.price,
            event_id=self.event_id,
            occurred_at=self.occurred_at,
        )


def made_up_line(seed: int, producer: int, number: int) -> Line:
    """One line of usage. Most have an event id; where one has none, its units tell it from every other."""
    draw = random.Random(f"{seed}/{producer}/{number}")
    named = draw.random() < 0.9
    digits = draw.choice((6, 9, 37))  # up to as many as there may be
    units = Decimal(draw.randrange(10**digits)).scaleb(-min(digits - 3, 18))
    return Line(
        customer_id=draw.choice(CUSTOMERS),
        service=draw.choice(SERVICES),
        units=units if named else Decimal(f"{number}.{draw.randrange(10**9)}{producer:03}"),
        price=Decimal(draw.randrange(10**6)).scaleb(-draw.choice((2, 6, 18))),
        event_id=f"{producer}/{number}" if named else None,
        occurred_at=_BEGINNING + timedelta(microseconds=draw.randrange(40 * 86_400_000_000)),
    )


def number_of(usage: Usage) -> int:
    """The number that a line of usage was made up for."""
    return int(usage.event_id.partition("/")[2] if usage.event_id else Decimal(usage.units_consumed))
