"""What the records in memory add up to."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from billing_client.contract.periods import SummaryRequest, period_at, period_labels
from billing_client.contract.totals import RunningTotal, group_dimensions
from billing_client.contract.wire import SummaryGroup, SummaryTotal, UsageRecord


def summary_groups(records: Iterable[UsageRecord[str]], asked: SummaryRequest) -> list[SummaryGroup[str]]:
    """The groups of a summary, by period, service, then dimensions; records without a dimension come first."""
    unit, zone, names = asked.grouping.period, ZoneInfo(asked.grouping.timezone), asked.grouping.dimensions
    groups: dict[tuple[datetime, str, tuple[str, ...]], list[UsageRecord[str]]] = defaultdict(list)
    for record in records:
        if record.voided_at is None:
            start = asked.start if unit is None else period_at(record.occurred_at, unit, zone).start
            values = tuple((record.dimensions or {}).get(name, "") for name in names)
            groups[start, record.service if asked.grouping.service else "", values].append(record)
    return [
        _group(summary_total(group), service, names, values, period_labels(start, asked.members, zone))
        for (start, service, values), group in sorted(groups.items())
    ]


def _group(
    total: SummaryTotal[str], service: str, names: Sequence[str], values: Sequence[str], labels: dict[str, str]
) -> SummaryGroup[str]:
    return SummaryGroup(
        service=service or None,
        **labels,
        dimensions=group_dimensions(names, values),
        records=total.records,
        units=total.units,
        amount=total.amount,
        credits=total.credits,
    )


def summary_total(records: Iterable[UsageRecord[str]]) -> SummaryTotal[str]:
    """What all records add up to, less those that are voided."""
    total = RunningTotal()
    for record in records:
        if record.voided_at is None:
            total.add(1, record.units_consumed, record.amount, record.service)
            if record.units_consumed.startswith("-"):
                total.add_credits(1, record.units_consumed, record.amount, record.service)
    return total.total()
