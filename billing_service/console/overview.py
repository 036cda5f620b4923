"""The overview: this month beside the month before, its forecast, and what is wrong."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct
from starlette.responses import Response

from billing_client.contract.decimals import difference, total
from billing_client.contract.wire import RefusalCount
from billing_service.console.charts import Bar, Chart, draw
from billing_service.console.formats import day_name, duration, long_day, path, query
from billing_service.console.pages import View, page_operation, show, zone_of
from billing_service.console.refusals import COUNTED, REASONS, recent_counts, total_of
from billing_service.currencies import MINOR_UNITS
from billing_service.database.replication import read_durability
from billing_service.http.requests import ApiRequest
from billing_service.ledger.overviews.structs import DayTotal, Overview
from billing_service.rendering.formats import month_name, number, places

SHOWN_REFUSALS = 5
SILENT = timedelta(days=1)  # as the alert BillingServiceSilent
FORGOTTEN = timedelta(days=30)  # a service that was not used for so long is no news


class Fault(Struct, frozen=True):
    """Something that is wrong: what, what to do about it, and the page that tells more."""

    text: str
    advice: str = ""
    address: str | None = None
    is_bad: bool = False


async def show_overview(request: ApiRequest, _: None) -> Response:
    """Show this month beside the month before, of all customers or of the one that the key is bound to."""
    zone = zone_of(request)
    caller = request.caller
    # a browser asks so when somebody reloads the page, and its script after a change
    is_fresh = any(word in request.headers.get("cache-control", "") for word in ("no-cache", "max-age=0"))
    overview = await request.services.overviews.read(caller.customer_id, zone, fresh=is_fresh)
    calendar = overview.calendar
    records = sum(day.records for day in overview.this_month)
    billed = total(day.amount for day in overview.this_month)
    return show(
        request,
        "overview",
        View(zone, calendar.now),
        overview=overview,
        rows=_rows(overview),
        chart=_chart(overview, request.services.settings.currency),
        billed=billed,
        service_totals=_service_totals(overview),
        month_before=total(day.amount for day in overview.comparison.days),
        most_places=places(amount for day in overview.days for amount in (day.amount, *day.services.values())),
        records=records,
        is_empty=not any(day.records for day in overview.days),
        more=difference(billed, overview.comparison.before),
        forecast=overview.forecast(MINOR_UNITS[request.services.settings.currency]),
        rate=_rate(overview),
        faults=[*await _faults(request, calendar.now), *_to_issue(overview)],
    )


def _rows(overview: Overview) -> list[tuple[int, DayTotal | None, DayTotal | None]]:
    """Both months by the number of the day, side by side: this month's day, and that of the month before."""
    this, before = overview.this_month, overview.comparison.days
    count = max(len(this), len(before))
    return [(n + 1, this[n] if n < len(this) else None, before[n] if n < len(before) else None) for n in range(count)]


def _service_totals(overview: Overview) -> list[str]:
    """This month's amount of each service, in their order."""
    return [total(day.services.get(service, "0") for day in overview.this_month) for service in overview.services]


def _chart(overview: Overview, currency: str) -> Chart:
    bars = [
        Bar(
            label=str(number),
            name=day_name(this.day) if this else "",
            parts=this.services if this else {},
            beside=before.amount if before else None,
            beside_name=day_name(before.day) if before else "",
        )
        for number, this, before in _rows(overview)
    ]
    first, before = overview.this_month[0].day, overview.comparison.days[0].day
    title = f"Billed in {first:%B} by day and service, beside {before:%B}, in {currency}"
    return draw(title, bars, overview.services, currency, beside=f"{before:%B}, all services")


def _rate(overview: Overview) -> str:
    """Records a second in the last whole quarter of an hour, to two digits."""
    seconds = (overview.recent_to - overview.recent_from) // timedelta(seconds=1)
    hundredths = (overview.recent * 200 + seconds) // (2 * seconds)
    return f"{hundredths // 100}.{hundredths % 100:02}"


async def _faults(request: ApiRequest, now: datetime) -> list[Fault]:
    """What is wrong, the worst first."""
    services, customer_id = request.services, request.caller.customer_id
    async with services.database.read_connection() as connection:
        refused = _refused(await recent_counts(connection, now, customer_id))
        if customer_id is not None:
            return refused
        durability = await read_durability(connection)
    faults = [Fault(text, is_bad=True) for text in (services.clock.fault, *durability.faults) if text]
    if durability.attached is not None and durability.attached < durability.waits_for:
        text = f"Of {durability.waits_for} standbys that a commit waits for, {durability.attached} are there."
        advice = "Nothing can be recorded until they are back: start them, or let commits wait for fewer."
        faults.append(Fault(text, advice, is_bad=True))
    return faults + refused + _silent_services(services.metrics.silence.silences(now.timestamp()), now)


def _to_issue(overview: Overview) -> list[Fault]:
    """The statements of the month before that are to be issued."""
    if not overview.comparison.to_issue:
        return []
    count, month = overview.comparison.to_issue, overview.calendar.days[0]
    text = f"{number(count)} statement{' is' if count == 1 else 's are'} to be issued for {month_name(month)}."
    zone = overview.calendar.zone
    address = path("statements") + query(month=month.isoformat()[:7], timezone=zone if zone != "UTC" else None)
    return [Fault(text, address=address)]


def _refused(counts: list[RefusalCount]) -> list[Fault]:
    """Refusals by API key and reason: those of which there are most."""
    faults = []
    for count in counts[:SHOWN_REFUSALS]:
        key = f"by API key {count.submitted_by}" if count.submitted_by else "without an API key"
        text = f"{number(count.refusals)} refused {key}: {REASONS.get(count.code, count.code)}."
        address = path("refusals") + query(code=count.code, key=count.submitted_by)
        faults.append(Fault(text, f"In the last {COUNTED.days} days; the last {_ago(count.last_refused_at)}.", address))
    if others := counts[SHOWN_REFUSALS:]:
        faults.append(Fault(f"{number(total_of(others))} more were refused.", address=path("refusals")))
    return faults


def _ago(instant: datetime) -> str:
    return f"on {long_day(instant.date())} at {instant:%H:%M} UTC"


def _silent_services(silences: Mapping[str, float], now: datetime) -> list[Fault]:
    faults = []
    for service, seconds in sorted(silences.items()):
        silence = timedelta(seconds=int(seconds))
        if SILENT < silence < FORGOTTEN:
            last = long_day((now - silence).date())
            advice = f"The last was on {last} (UTC). Look whether its producer runs."
            faults.append(Fault(f"No usage of {service} was recorded for {duration(silence)}.", advice))
    return faults


OPERATIONS = [
    page_operation("GET", path(), show_overview, "usage:read"),
]
