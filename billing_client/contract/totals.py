"""What lines and groups add up to, and how two statements differ."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from billing_client.contract.decimals import EXACT, difference, plain, round_half_up, total
from billing_client.contract.statements.structs import LineChange, LineTotal, StatementLine, StatementTotal, TotalChange
from billing_client.contract.wire import CreditTotal, SummaryGroup, SummaryTotal

_NOTHING = LineTotal(records=0, units="0", amount="0")


class _Sums:
    """Records, their units and their amount, added up one after the other."""

    def __init__(self) -> None:
        self.records = 0
        self._units = self._amount = Decimal(0)
        self._services: set[str | None] = set()

    def add(self, records: int, units: str | None, amount: str, service: str | None) -> None:
        self.records += records
        self._amount = EXACT.add(self._amount, Decimal(amount))
        if len(self._services) < 2:  # after that there is no sum of units any more
            self._services.add(service)
            self._units = EXACT.add(self._units, Decimal(units or 0))

    @property
    def units(self) -> str | None:
        is_one = len(self._services) < 2 and None not in self._services
        return plain(self._units) if is_one else None

    @property
    def amount(self) -> str:
        return plain(self._amount)


def group_dimensions(names: Sequence[str], values: Sequence[str]) -> dict[str, str | None] | None:
    """The member `dimensions` of a group, from an empty value for records without one; None if none were asked for."""
    return {name: value or None for name, value in zip(names, values, strict=True)} if names else None


class RunningTotal:
    """What groups of a summary, or records, add up to. Units are added up as long as they are of one service."""

    def __init__(self) -> None:
        self._all = _Sums()
        self._credits = _Sums()

    def add(self, records: int, units: str | None, amount: str, service: str | None) -> None:
        """Add records, credits among them. `service` is the one that all are of; None for several."""
        self._all.add(records, units, amount, service)

    def add_credits(self, records: int, units: str | None, amount: str, service: str | None) -> None:
        """Say which part of what was added is credits."""
        if records:
            self._credits.add(records, units, amount, service)

    def total(self) -> SummaryTotal[str]:
        """What it all adds up to so far."""
        one, other = self._all, self._credits
        credits_ = CreditTotal(records=other.records, units=other.units, amount=other.amount) if other.records else None
        return SummaryTotal(records=one.records, units=one.units, amount=one.amount, credits=credits_)


def summary_total(groups: Iterable[SummaryGroup[str]]) -> SummaryTotal[str]:
    """What groups add up to that name their service."""
    total = RunningTotal()
    for group in groups:
        total.add(group.records, group.units, group.amount, group.service)
        if group.credits is not None:
            total.add_credits(group.credits.records, group.credits.units, group.credits.amount, group.service)
    return total.total()


def statement_total(lines: list[StatementLine[str]], minor_unit: int) -> StatementTotal[str]:
    """What the lines of a statement add up to, rounded once."""
    amount = total(line.amount for line in lines)
    return StatementTotal(
        records=sum(line.records for line in lines), amount=amount, rounded=round_half_up(amount, minor_unit)
    )


def line_changes(before: list[StatementLine[str]], after: list[StatementLine[str]]) -> list[LineChange[str]]:
    """The lines that differ between two statements, by service and price, credits apart."""
    old, new = _by_price(before), _by_price(after)
    return [
        LineChange(service=service, price_per_unit=price, before=old.get(key, _NOTHING), after=new.get(key, _NOTHING))
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key[0], Decimal(key[1])))
        for service, price, _ in [key]
        if old.get(key) != new.get(key)
    ]


def _by_price(lines: list[StatementLine[str]]) -> dict[tuple[str, str, bool], LineTotal[str]]:
    return {
        (line.service, line.price_per_unit, line.units.startswith("-")): LineTotal(
            records=line.records, units=line.units, amount=line.amount
        )
        for line in lines
    }


def total_change(before: StatementTotal[str], after: StatementTotal[str], minor_unit: int) -> TotalChange[str]:
    """What became of the total between two statements."""
    owed = StatementTotal(
        records=after.records - before.records,
        amount=difference(after.amount, before.amount),
        rounded=round_half_up(difference(after.rounded, before.rounded), minor_unit),
    )
    return TotalChange(before=before, after=after, difference=owed)
