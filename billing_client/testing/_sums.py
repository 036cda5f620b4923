"""What the records in memory add up to: summaries, and statements with what changed since an earlier one."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from billing_client.contract.amounts import multiply, total
from billing_client.contract.periods import Asked, Month, period_labels
from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.totals import line_changes, statement_total, total_change
from billing_client.contract.wire import (
    Rounding,
    Statement,
    StatementChanges,
    StatementLine,
    StatementVoids,
    SummaryGroup,
    UsageRecord,
    VoidedTotal,
    VoidedUsage,
)
from billing_client.testing._ledger import Ledger


def summary_groups(records: Iterable[UsageRecord[str]], asked: Asked) -> list[SummaryGroup[str]]:
    """The groups of a summary, by period, then service; one of all where nothing is to be told apart."""
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
    if period == "hour":  # by the clock as it stood: an hour that comes twice is two
        offset = timezone(local.utcoffset() or timedelta(0))
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=offset).astimezone(UTC)
    day = local.day if period == "day" else 1
    return local.replace(day=day, hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)


def _grouped(
    records: Iterable[UsageRecord[str]], key: Callable[[UsageRecord[str]], Any]
) -> dict[Any, list[UsageRecord[str]]]:
    groups: dict[Any, list[UsageRecord[str]]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


class _Issue(Struct, frozen=True):
    """A statement as it was issued, and the request ids that were in sight."""

    issued_at: datetime
    lines: list[StatementLine[str]]
    recorded: set[str]
    voided: set[str]


class Statements:
    """Issues the statements of a ledger, and remembers them."""

    def __init__(self, ledger: Ledger, currency: str, minor_unit: int) -> None:
        self._ledger = ledger
        self._currency = currency
        self._minor_unit = minor_unit
        self._issues: dict[Any, _Issue] = {}

    def issue(self, month: Month, since: str | None) -> Statement[str]:
        """The statement of a month. Raises ProblemError."""
        customer = self._ledger.customer(month.customer_id)
        records = self._ledger.records(month.customer_id, month.start, month.end)
        voids = [self._ledger.voids[r.customer_id, r.request_id] for r in records if r.voided_at is not None]
        counted = [record for record in records if record.voided_at is None]
        digest = sha256(b"".join(sorted(bytes.fromhex(record.request_id) for record in counted))).hexdigest()
        lines = _lines(counted)
        now = _Issue(datetime.now(UTC), lines, _ids(records), _ids(voids))
        changes = None if since is None else self._changes(month, since, now, records, voids)
        return Statement(
            customer_id=customer.id,
            customer_name=customer.name,
            month=month.first.isoformat()[:7],
            timezone=month.timezone,
            from_=month.start,
            to=month.end,
            currency=self._currency,
            rounding=Rounding(mode="half_up", minor_unit=self._minor_unit),
            issued_at=self._issues.setdefault((month.key, digest), now).issued_at,
            digest=digest,
            lines=lines,
            total=statement_total(lines, self._minor_unit),
            late=_lines(record for record in counted if record.recorded_at >= month.end),
            voided=StatementVoids(
                data=_by_void(voids),
                more=False,
                total=VoidedTotal(records=len(voids), amount=total(void.amount for void in voids)),
            ),
            changes=changes,
        )

    def _changes(
        self,
        month: Month,
        since: str,
        now: _Issue,
        records: list[UsageRecord[str]],
        voids: list[VoidedUsage[str]],
    ) -> StatementChanges[str]:
        then = self._issues.get((month.key, since))
        if then is None:
            where = f"{month.first:%Y-%m} in {month.timezone}"
            detail = f"No statement of {where} with this digest was issued to this customer."
            raise ProblemError(problem("statement_not_found", detail))
        recorded = [record for record in records if record.request_id not in then.recorded]
        return StatementChanges(
            since=since,
            issued_at=then.issued_at,
            lines=line_changes(then.lines, now.lines),
            total=total_change(
                statement_total(then.lines, self._minor_unit),
                statement_total(now.lines, self._minor_unit),
                self._minor_unit,
            ),
            recorded=sorted(recorded, key=lambda record: (record.recorded_at, record.request_id)),
            voided=_by_void(void for void in voids if void.request_id not in then.voided),
            more=False,
        )


def _ids(records: Iterable[UsageRecord[str]]) -> set[str]:
    return {record.request_id for record in records}


def _by_void(voids: Iterable[VoidedUsage[str]]) -> list[VoidedUsage[str]]:
    return sorted(voids, key=lambda void: (void.voided_at, void.request_id))


def _lines(records: Iterable[UsageRecord[str]]) -> list[StatementLine[str]]:
    """A line for each service and price."""
    groups = _grouped(records, lambda record: (record.service, Decimal(record.price_per_unit)))
    lines = []
    for (service, _), group in sorted(groups.items()):
        price, units = group[0].price_per_unit, total(record.units_consumed for record in group)
        lines.append(
            StatementLine(
                service=service, price_per_unit=price, records=len(group), units=units, amount=multiply(units, price)
            )
        )
    return lines
