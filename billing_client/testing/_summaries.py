"""What the records in memory add up to."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from billing_client.contract.periods import SummaryRequest, period_at, period_labels
from billing_client.contract.totals import RunningTotal
from billing_client.contract.wire import SummaryGroup, SummaryTotal, UsageRecord


def summary_groups(records: Iterable[UsageRecord[str]], asked: SummaryRequest) -> list[SummaryGroup[str]]:
    """The groups of a summary, by period, then service."""
    unit, zone = asked.grouping.period, ZoneInfo(asked.grouping.timezone)
    groups: dict[tuple[datetime, str | None], list[UsageRecord[str]]] = defaultdict(list)
    for record in records:
        if record.voided_at is None:
            start = asked.start if unit is None else period_at(record.occurred_at, unit, zone).start
            groups[start, record.service if asked.grouping.service else None].append(record)
    return [
        _group(summary_total(group), service, period_labels(start, asked.members, zone))
        for (start, service), group in sorted(groups.items())
    ]


def _group(total: SummaryTotal[str], service: str | None, labels: dict[str, str]) -> SummaryGroup[str]:
    return SummaryGroup(
        service=service,
        **labels,
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
