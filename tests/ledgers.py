"""Ledgers of made-up usage, and what they add up to, computed without the service."""

import csv
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal, Inexact
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import aiohttp

from billing_client.contract.periods import Grouping, PeriodUnit, SummaryRequest
from billing_service.database.pool import Connection
from tests.calls import post

FOCUS_SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "focus_sample.csv"
Sums = tuple[int, Decimal | None, Decimal]
_EXACT = Context(prec=200, traps=[Inexact])


def made_up_usage(count: int, seed: int, customer_id: str = "acme") -> list[dict[str, Any]]:
    """Usage of three services over a year, most of it in this century, some from before there were time zones."""
    draw = random.Random(seed)

    def instant(number: int) -> datetime:
        year = 1880 if number % 20 == 0 else 2026
        return datetime(year, 1, 1, tzinfo=UTC) + timedelta(microseconds=draw.randrange(300 * 86_400_000_000))

    return [
        {
            "customerId": customer_id,
            "service": draw.choice(("compute", "requests", "storage")),
            "unitsConsumed": str(Decimal(draw.randrange(10**9)) / 1000),
            "pricePerUnit": str(Decimal(draw.randrange(10**6)) / 10**9),
            "eventId": f"{seed}-{number}",
            "occurredAt": instant(number).isoformat(),
        }
        for number in range(count)
    ]


def focus_usage() -> Iterator[dict[str, Any]]:
    """The lines of the sample of real cloud bills that can be recorded."""
    with FOCUS_SAMPLE.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["ConsumedQuantity"] != "NULL":
                yield {
                    "customerId": line["SubAccountId"],
                    "service": line["ServiceName"],
                    "unitsConsumed": line["ConsumedQuantity"],
                    "pricePerUnit": line["ListUnitPrice"],
                    "eventId": line["Id"],
                    "occurredAt": line["ChargePeriodStart"].replace(" ", "T") + "Z",
                }


async def record_all(http: aiohttp.ClientSession, usages: Iterable[dict[str, Any]]) -> list[Any]:
    """Record usage in one batch, customers too; the records."""
    records = list(usages)
    for customer_id in sorted({record["customerId"] for record in records}):
        await post(http, "/customers", {"id": customer_id, "name": "Name"})
    results = (await post(http, "/usage/batch", {"records": records})).require(200)["results"]
    assert {result["outcome"] for result in results} == {"recorded"}
    return [result["record"] for result in results]


async def given_rollups(connection: Connection, customers: int, services: int, days: int) -> None:
    """Customers with one use of each of some services on each of some days, as no more than its rollups."""
    await connection.execute(
        """
        INSERT INTO customers SELECT 'c' || lpad(n::text, 4, '0'), 'name', now(), now() FROM generate_series(1, $1) n
        """,
        customers,
    )
    await connection.execute(
        """
        INSERT INTO usage_rollups
        SELECT customer_id, minutes, timestamptz '2026-01-01Z' + day * interval '1 day', 'service ' || service, 1, 2, 3
        FROM customers, generate_series(1, $1) service, generate_series(0, $2 - 1) day, unnest(ARRAY[15, 180]) minutes
        """,
        services,
        days,
    )


def summary_request(
    start: datetime, end: datetime, *members: Literal["service", "hour", "day", "month"], zone: str = "UTC"
) -> SummaryRequest:
    """What a summary by these members is asked for."""
    unit: PeriodUnit | None = next((member for member in members if member != "service"), None)
    return SummaryRequest(start, end, None, None, Grouping("service" in members, unit, zone), members)


def sums_by(usages: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, Sums]:
    """Records, units and amount by a key, exact. Units of several services make no sum."""
    sums: dict[Any, tuple[int, Decimal, Decimal]] = {}
    services: dict[Any, set[str]] = defaultdict(set)
    for usage in usages:
        records, units, amount = sums.get(key(usage), (0, Decimal(0), Decimal(0)))
        consumed, price = Decimal(usage["unitsConsumed"]), Decimal(usage["pricePerUnit"])
        added = _EXACT.add(amount, _EXACT.multiply(consumed, price))
        sums[key(usage)] = (records + 1, _EXACT.add(units, consumed), added)
        services[key(usage)].add(usage["service"])
    return {
        group: (records, units if len(services[group]) == 1 else None, amount)
        for group, (records, units, amount) in sums.items()
    }


def sums_of(group: dict[str, Any]) -> Sums:
    """What a group, or a total, of a summary says."""
    units = None if group["units"] is None else Decimal(group["units"])
    return group["records"], units, Decimal(group["amount"])


def timezone_of(local: datetime) -> timezone:
    """The offset from UTC that holds at a local time, as a zone of its own."""
    return timezone(local.utcoffset() or timedelta(0))


def label(usage: dict[str, Any], member: str, zone: str) -> str:
    """What `groupBy=member` calls the group that this usage is in; an hour in UTC."""
    local = datetime.fromisoformat(usage["occurredAt"]).astimezone(ZoneInfo(zone))
    match member:
        case "hour":
            start = local.replace(minute=0, second=0, microsecond=0, tzinfo=timezone_of(local))
            return start.astimezone(UTC).isoformat()
        case "day":
            return local.date().isoformat()
        case "month":
            return local.date().isoformat()[:7]
    return str(usage[member])
