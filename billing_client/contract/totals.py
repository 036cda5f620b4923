"""What lines and groups add up to, and how two statements differ."""

from collections.abc import Sequence
from decimal import Decimal

from billing_client.contract.decimals import difference, round_half_up, total
from billing_client.contract.statements.structs import LineChange, StatementLine, StatementTotal, TotalChange
from billing_client.contract.wire import SummaryGroup, SummaryTotal

_NOTHING = SummaryTotal(records=0, units="0", amount="0")


def summary_total(groups: Sequence[SummaryGroup[str] | SummaryTotal[str]]) -> SummaryTotal[str]:
    """What groups of a summary, or totals of some of them, add up to."""
    return SummaryTotal(
        records=sum(group.records for group in groups),
        units=total(group.units for group in groups),
        amount=total(group.amount for group in groups),
    )


def statement_total(lines: list[StatementLine[str]], minor_unit: int) -> StatementTotal[str]:
    """What the lines of a statement add up to, rounded once."""
    amount = total(line.amount for line in lines)
    return StatementTotal(
        records=sum(line.records for line in lines), amount=amount, rounded=round_half_up(amount, minor_unit)
    )


def line_changes(before: list[StatementLine[str]], after: list[StatementLine[str]]) -> list[LineChange[str]]:
    """The lines that differ between two statements, by service and price."""
    old, new = _by_price(before), _by_price(after)
    return [
        LineChange(service=service, price_per_unit=price, before=old.get(key, _NOTHING), after=new.get(key, _NOTHING))
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key[0], Decimal(key[1])))
        for service, price in [key]
        if old.get(key) != new.get(key)
    ]


def _by_price(lines: list[StatementLine[str]]) -> dict[tuple[str, str], SummaryTotal[str]]:
    return {
        (line.service, line.price_per_unit): SummaryTotal(records=line.records, units=line.units, amount=line.amount)
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
