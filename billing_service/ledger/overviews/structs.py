"""What an overview says: this month by day and service, what it is compared with, and what it is likely to come to."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from msgspec import Struct

from billing_client.contract.decimals import difference, total
from billing_service.ledger.overviews.calendars import Calendar

MEAN_DAYS = 7  # a week: weekends count as often as they come


class DayTotal(Struct, frozen=True):
    """What one day adds up to. `services` holds amounts; the key None stands for all services that are not named."""

    day: date
    records: int
    amount: str
    services: dict[str | None, str]


class Forecast(Struct, frozen=True):
    """What this month is likely to come to: what is billed, and `mean` a day for the time that is left.

    `amount` and `mean` are rounded to the minor unit of the currency; the exact mean was calculated with.
    """

    amount: str
    billed: str
    mean: str
    mean_from: date
    mean_to: date
    left: timedelta


class CustomerChange(Struct, frozen=True):
    """A customer, and what it comes to this month until now and in the same part of the month before."""

    customer_id: str
    name: str
    before: str
    after: str

    @property
    def difference(self) -> str:
        return difference(self.after, self.before)


class Comparison(Struct, frozen=True):
    """What this month is compared with, as of a moment of its own: it takes longer to read than this month does.

    Attributes:
        as_of: When it was read.
        comparable: The moment of the month before that corresponds to `as_of`; see Calendar.
        days: The totals of the days of the month before, in order, without services.
        before: The amount of the month before until the comparable moment.
        to_issue: How many customers have usage in the month before, and no statement of it.
        changed: The customers that changed most; empty for one customer.
    """

    as_of: datetime
    comparable: datetime
    days: list[DayTotal]
    before: str
    to_issue: int
    changed: list[CustomerChange]


class Overview(Struct, frozen=True):
    """All customers, or one of them, as of `calendar.now`.

    Attributes:
        calendar: The two months.
        this_month: The totals of the days of this month, in order.
        services: The names of the services that are told apart, by name; None is last, if there are others.
        recent: How many records occurred from `recent_from` to `recent_to`.
        credits: How many credits there are this month, and their amount, which is below zero.
        voided: How many records were voided this month, and their amount.
        comparison: What it is compared with.
        is_due: Whether a newer one is being read.
    """

    calendar: Calendar
    this_month: list[DayTotal]
    services: list[str | None]
    recent: int
    recent_from: datetime
    recent_to: datetime
    credits: tuple[int, str]
    voided: tuple[int, str]
    comparison: Comparison
    is_due: bool = False

    @property
    def days(self) -> list[DayTotal]:
        return self.comparison.days + self.this_month

    def forecast(self, minor_unit: int) -> Forecast:
        """What this month is likely to come to, rounded to so many digits after the point."""
        calendar = self.calendar
        window = self.days[max(0, calendar.today - MEAN_DAYS) : calendar.today]
        while len(window) > 1 and not window[0].records:  # before the first usage
            window = window[1:]
        mean = Fraction(Decimal(total(day.amount for day in window))) / max(1, len(window))
        left = calendar.bounds[-1] - calendar.now
        billed = total(day.amount for day in self.this_month)
        estimate = Fraction(Decimal(billed)) + mean * Fraction(left // timedelta(seconds=1), 86_400)
        return Forecast(
            amount=_rounded(estimate, minor_unit),
            billed=billed,
            mean=_rounded(mean, minor_unit),
            mean_from=window[0].day,
            mean_to=window[-1].day,
            left=left,
        )


def _rounded(number: Fraction, digits: int) -> str:
    """A fraction rounded to so many digits after the point, half away from zero."""
    scaled = abs(number) * 10**digits
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    text = str(whole).rjust(digits + 1, "0")
    sign = "-" if number < 0 and whole else ""
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else f"{sign}{text}"
