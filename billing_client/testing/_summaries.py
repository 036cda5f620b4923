"""What the records in memory add up to."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from billing_client.contract.decimals import total
from billing_client.contract.periods import SummaryRequest, period_at, period_labels
from billing_client.contract.wire import SummaryGroup, UsageRecord


def summary_groups(records: Iterable[UsageRecord[str]], asked: SummaryRequest) -> list[SummaryGroup[str]]:
    """The groups of a summary, by period, then service. A summary without `groupBy` has one group of everything."""
    unit, zone = asked.grouping.period, ZoneInfo(asked.grouping.timezone)
    groups: dict[tuple[datetime, str | None], list[UsageRecord[str]]] = defaultdict(list)
    for record in records:
        if record.voided_at is None:
            start = asked.start if unit is None else period_at(record.occurred_at, unit, zone).start
            groups[start, record.service if asked.grouping.service else None].append(record)
    return [
        SummaryGroup(
            service=service,
            **period_labels(start, asked.members, zone),
            records=len(group),
            units=total(record.units_consumed for record in group),
            amount=total(record.amount for record in group),
        )
        for (start, service), group in sorted(groups.items())
    ]
