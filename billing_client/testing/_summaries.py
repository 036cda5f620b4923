"""What the records in memory add up to."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from billing_client.contract.amounts import total
from billing_client.contract.periods import Asked, period_labels, to_utc
from billing_client.contract.wire import SummaryGroup, UsageRecord


def summary_groups(records: Iterable[UsageRecord[str]], asked: Asked) -> list[SummaryGroup[str]]:
    """The groups of a summary, by period, then service. A summary without `groupBy` has one group of everything."""
    zone = ZoneInfo(asked.grouping.timezone)

    def key(record: UsageRecord[str]) -> tuple[datetime | None, str | None]:
        period = asked.grouping.period and _start_of(asked.grouping.period, record.occurred_at.astimezone(zone))
        return period, record.service if asked.grouping.service else None

    groups = _grouped((record for record in records if record.voided_at is None), key)
    return [
        SummaryGroup(
            service=service,
            **(period_labels(period, period.astimezone(zone).replace(tzinfo=None), asked.members) if period else {}),
            records=len(group),
            units=total(record.units_consumed for record in group),
            amount=total(record.amount for record in group),
        )
        for (period, service), group in sorted(groups.items(), key=lambda item: (item[0][0] or 0, item[0][1] or ""))
    ]


def _start_of(period: str, local: datetime) -> datetime:
    """When the hour, day or month of a local time began."""
    if period == "hour":  # a local hour that occurs twice, when clocks go back, is two hours
        offset = timezone(local.utcoffset() or timedelta(0))
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=offset).astimezone(UTC)
    day = local.day if period == "day" else 1
    return to_utc(local.replace(day=day, hour=0, minute=0, second=0, microsecond=0, fold=0))


def _grouped(
    records: Iterable[UsageRecord[str]], key: Callable[[UsageRecord[str]], Any]
) -> dict[Any, list[UsageRecord[str]]]:
    groups: dict[Any, list[UsageRecord[str]]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups
