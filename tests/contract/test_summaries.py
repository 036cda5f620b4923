"""What is owed, by service, hour, day and month, in any time zone."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import available_timezones

import aiohttp
import pytest

from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.ledgers import FOCUS_SAMPLE, focus_usage, label, made_up_usage, record_all, sums_by, sums_of
from tests.services import running_service

# with whole hours, half and quarter hours, a daylight saving of half an hour, and none
TIMEZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"]
ZERO = {"records": 0, "units": "0", "amount": "0"}


async def summary(http: aiohttp.ClientSession, customer_id: str = "acme", **query: str) -> Any:
    return (await get(http, f"/customers/{customer_id}/summary?{urlencode(query)}")).require(200)


def group_key(group: dict[str, Any], members: list[str]) -> tuple[str, ...]:
    hour = group.get("hour")
    known = group | ({"hour": datetime.fromisoformat(hour).astimezone(UTC).isoformat()} if hour else {})
    return tuple(known[member] for member in members)


async def test_a_customer_without_usage(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    assert await summary(http, groupBy="service") == {
        "from": None,
        "to": None,
        "timezone": "UTC",
        "currency": "USD",
        "groups": [],
        "total": ZERO,
        "nextCursor": None,
    }


async def test_it_is_up_to_date_with_the_answer_before(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number in range(1, 6):
        (await post(http, "/usage", usage(eventId=str(number)))).require(201)
        assert (await summary(http))["total"] == {
            "records": number,
            "units": f"{1.5 * number:g}",
            "amount": f"{0.03 * number:.2f}",
        }


async def test_any_grouping_of_any_time_in_any_zone_is_what_the_records_add_up_to(http: aiohttp.ClientSession) -> None:
    usages = made_up_usage(1_500, seed=7)
    await record_all(http, usages)
    draw = random.Random(11)
    for _ in range(80):
        members = draw.sample(["service", "hour", "day", "month"], draw.randint(0, 3))
        timezone = draw.choice(TIMEZONES)
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=draw.randrange(200 * 86_400_000_000))
        start = draw.choice([start, start.replace(hour=0, minute=0, second=0, microsecond=0)])
        end = start + timedelta(minutes=draw.choice([0, 1, 15, 24 * 60, 90 * 24 * 60]))
        start, end = draw.choice([(start, end), (datetime(1880, 5, 1, tzinfo=UTC), end)])
        answer = await summary(
            http, groupBy=",".join(members), timezone=timezone, to=end.isoformat(), **{"from": start.isoformat()}
        )
        within = [u for u in usages if start <= datetime.fromisoformat(u["occurredAt"]) < end]
        expected = sums_by(within, lambda u: tuple(label(u, member, timezone) for member in members))  # noqa: B023 - used at once
        assert sums_of(answer["total"]) == sums_by(within, lambda _: 0).get(0, (0, 0, 0)), (
            members,
            timezone,
            start,
            end,
        )
        groups = {group_key(group, members): sums_of(group) for group in answer["groups"]}
        assert groups == (expected if members else {}), (members, timezone, start, end)


async def test_the_hour_that_comes_twice_in_autumn_is_two_hours(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number, instant in enumerate(("2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z")):
        (await post(http, "/usage", usage(eventId=str(number), occurredAt=instant))).require(201)
    answer = await summary(http, groupBy="hour,day", timezone="Europe/Berlin")
    assert [(group["hour"], group["day"]) for group in answer["groups"]] == [
        ("2025-10-26T02:00:00+02:00", "2025-10-26"),
        ("2025-10-26T02:00:00+01:00", "2025-10-26"),
    ]


@pytest.mark.parametrize(
    ("timezone", "hours", "days"),
    [
        ("UTC", ["02T00:00:00+00:00", "31T23:00:00+00:00"], ["02", "31"]),
        ("Etc/GMT+12", ["01T12:00:00-12:00", "31T11:00:00-12:00"], ["01", "31"]),
        ("Etc/GMT-14", ["02T14:00:00+14:00", "01T13:00:00+14:00"], ["02", "01"]),
    ],
)
async def test_usage_of_year_1_is_summed_up(
    http: aiohttp.ClientSession, timezone: str, hours: list[str], days: list[str]
) -> None:
    await given_customer(http)
    for instant in ("0001-01-01T00:00:00Z", "0001-01-31T23:59:59Z"):
        (await post(http, "/usage", usage(eventId=instant, occurredAt=instant))).require(201)
    months = ["0001-02" if timezone == "Etc/GMT-14" and n else "0001-01" for n in (0, 1)]
    for member, labels in (("hour", hours), ("day", days)):
        answer = await summary(http, groupBy=member, timezone=timezone)
        assert [group[member] for group in answer["groups"]] == [
            f"{month}-{label}" for month, label in zip(months, labels, strict=True)
        ]
    by_month = await summary(http, groupBy="month", timezone=timezone)
    assert [group["month"] for group in by_month["groups"]] == sorted(set(months))
    assert by_month["total"]["records"] == (await summary(http))["total"]["records"] == 2


async def test_usage_of_the_first_day_can_be_voided(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    record = (await post(http, "/usage", usage(occurredAt="0001-01-01T00:00:00Z"))).require(201)
    (await post(http, f"/customers/acme/usage/{record['requestId']}/void", {"reason": "no time was set"})).require(200)
    for group_by in ("", "hour", "month"):
        assert (await summary(http, groupBy=group_by))["total"]["records"] == 0


async def test_from_is_in_and_to_is_out(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number, instant in enumerate(("2026-03-01T00:00:00Z", "2026-03-31T23:59:59.999999Z", "2026-04-01T00:00:00Z")):
        (await post(http, "/usage", usage(eventId=str(number), occurredAt=instant))).require(201)
    march = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
    answer = await summary(http, groupBy="month", **march)
    assert (answer["from"], answer["to"]) == tuple(march.values())
    assert answer["groups"] == [{"month": "2026-03", "records": 2, "units": "3", "amount": "0.06"}]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("groupBy=week", "query/groupBy"),
        ("groupBy=,", "query/groupBy"),
        ("timezone=Mars/Olympus", "query/timezone"),
        ("timezone=../etc/passwd", "query/timezone"),
        ("timezone=", "query/timezone"),
        ("timezone=%00", "query/timezone"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "query/to"),
        ("from=2026-01-02", "query/from"),
        ("from=0001-01-01T00:00:00%2B14:00", "query/from"),
        ("granularity=day", "query/granularity"),
        ("limit=0", "query/limit"),
        ("limit=50001", "query/limit"),
        ("cursor=x", "query/cursor"),
    ],
)
async def test_a_bad_query(shared_http: aiohttp.ClientSession, query: str, pointer: str) -> None:
    (await get(shared_http, f"/customers/acme/summary?{query}")).problem("validation_error", pointer)
    (await get(shared_http, f"/summary?{query}")).problem("validation_error", pointer)


async def test_a_customer_that_is_not_there(shared_http: aiohttp.ClientSession) -> None:
    (await get(shared_http, "/customers/nobody/summary")).problem("customer_not_found")


async def test_all_customers_page_by_page(http: aiohttp.ClientSession) -> None:
    usages = [u for number in range(7) for u in made_up_usage(30, number, f"c{number}")]
    await record_all(http, usages)
    await given_customer(http, "c3-without-usage")
    pages: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = (await get(http, f"/summary?groupBy=service&limit=3{cursor and '&cursor='}{cursor}")).require(200)
        pages.append(answer["data"])
        cursor = answer["nextCursor"]
    assert [len(page) for page in pages] == [3, 3, 2]
    data = [customer for page in pages for customer in page]
    assert [customer["customerId"] for customer in data] == sorted(customer["customerId"] for customer in data)
    expected = sums_by(usages, lambda u: u["customerId"])
    assert {c["customerId"]: sums_of(c["total"]) for c in data if c["total"]["records"]} == expected
    by_service = {(c["customerId"], g["service"]): sums_of(g) for c in data for g in c["groups"]}
    assert by_service == sums_by(usages, lambda u: (u["customerId"], u["service"]))


async def test_writers_in_two_processes_lose_no_sum(settings: Settings, http: aiohttp.ClientSession) -> None:
    usages = made_up_usage(600, seed=3)
    (await post(http, "/customers", {"id": "acme", "name": "Acme"})).require(201)
    with running_service(settings) as other:
        async with aiohttp.ClientSession(other.url) as second:
            chunks = [usages[start : start + 60] for start in range(0, 600, 30)]  # each record comes twice
            sides = [http, second]
            answers = await asyncio.gather(
                *(post(sides[n % 2], "/usage/batch", {"records": chunk}) for n, chunk in enumerate(chunks)),
                *(post(sides[n % 2], "/usage", record) for n, record in enumerate(usages[::10])),
            )
    assert {answer.status for answer in answers} <= {200, 201, 409}
    answer = await summary(http, groupBy="service,day")
    expected = sums_by(usages, lambda u: (u["service"], label(u, "day", "UTC")))
    assert {(g["service"], g["day"]): sums_of(g) for g in answer["groups"]} == expected


@pytest.mark.skipif(not FOCUS_SAMPLE.exists(), reason="the sample of real cloud bills is not part of the project")
async def test_real_cloud_bills(http: aiohttp.ClientSession) -> None:
    usages = list(focus_usage())
    assert len(usages) == 999
    await record_all(http, usages)
    for member in ("service", "day"):
        found: dict[Any, Any] = {}
        cursor: str | None = ""
        while cursor is not None:  # a page ends after a while, so a slow machine may need more than one
            page = f"/summary?groupBy={member}&limit=1000{cursor and '&cursor='}{cursor}"
            answer = (await get(http, page)).require(200)
            for customer in answer["data"]:
                found |= {(customer["customerId"], g[member]): sums_of(g) for g in customer["groups"]}
            cursor = answer["nextCursor"]
        assert found == sums_by(usages, lambda u: (u["customerId"], label(u, member, "UTC")))  # noqa: B023 - used at once


async def test_the_largest_amount_beside_the_smallest(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number in ("9" * 38, "0.000000000000000001"):
        report = usage(eventId=number, unitsConsumed=number, pricePerUnit=number, service=f"service {len(number)}")
        (await post(http, "/usage", report)).require(201)
    amount = f"{(10**38 - 1) ** 2}.{'1':0>36}"
    for query in ("", "?groupBy=service", "?groupBy=day"):
        assert (await get(http, f"/customers/acme/summary{query}")).require(200)["total"]["amount"] == amount
    assert (await get(http, "/summary")).require(200)["data"][0]["total"]["amount"] == amount


async def test_a_month_is_the_same_in_summary_and_statement_in_every_zone(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    for number, instant in enumerate(("2025-06-30T22:30:00Z", "2025-11-30T23:30:00Z")):
        (await post(http, "/usage", usage(eventId=str(number), occurredAt=instant))).require(201)
    wrong = []
    for timezone in sorted(available_timezones() - {"localtime", "Factory"}):
        groups = (await summary(http, groupBy="month", timezone=timezone))["groups"]
        instants = ("2025-06-30T22:30:00+00:00", "2025-11-30T23:30:00+00:00")
        expected = sorted(label({"occurredAt": instant}, "month", timezone) for instant in instants)
        wrong += [timezone] if [group["month"] for group in groups] != expected else []
    assert wrong == []


# in St. John's 2009 the first minute of November was followed by the last hour of October once more
TURNED_BACK = ("2009-11-01T02:29:59Z", "2009-11-01T02:30:30Z", "2009-11-01T02:45:00Z", "2009-11-01T03:30:00Z")


async def test_a_clock_turned_back_over_midnight_does_not_bring_the_month_before_back(
    http: aiohttp.ClientSession,
) -> None:
    await record_all(http, [usage(eventId=instant, occurredAt=instant) for instant in TURNED_BACK])
    groups = (await summary(http, groupBy="hour,month", timezone="America/St_Johns"))["groups"]
    assert [(group["hour"], group["month"]) for group in groups] == [
        ("2009-10-31T23:00:00-02:30", "2009-10"),
        ("2009-11-01T00:00:00-02:30", "2009-11"),
        ("2009-10-31T23:00:00-03:30", "2009-11"),
        ("2009-11-01T00:00:00-03:30", "2009-11"),
    ]


@pytest.mark.service_alone
async def test_a_month_is_one_thing_in_a_summary_and_a_statement(http: aiohttp.ClientSession) -> None:
    await record_all(http, [usage(eventId=instant, occurredAt=instant) for instant in TURNED_BACK])
    months = (await summary(http, groupBy="month", timezone="America/St_Johns"))["groups"]
    assert [(group["month"], group["records"]) for group in months] == [("2009-10", 1), ("2009-11", 3)]
    for group in months:
        path = f"/customers/acme/statement?month={group['month']}&timezone=America/St_Johns"
        total = (await get(http, path)).require(200)["total"]
        assert (total["records"], total["amount"]) == (group["records"], group["amount"])


async def test_groups_page_by_page(http: aiohttp.ClientSession) -> None:
    await record_all(http, made_up_usage(40, seed=9))
    for members in ("service", "day", "service,hour", "month,service"):
        whole = await summary(http, groupBy=members, timezone="Asia/Kolkata")
        assert whole["nextCursor"] is None
        page = await summary(http, groupBy=members, timezone="Asia/Kolkata", limit="2")
        groups = page["groups"]
        while page["nextCursor"] is not None:
            assert (len(page["groups"]), page["total"]) == (2, whole["total"])
            cursor = page["nextCursor"]
            page = await summary(http, groupBy=members, timezone="Asia/Kolkata", limit="2", cursor=cursor)
            groups += page["groups"]
        assert (groups, page["total"]) == (whole["groups"], whole["total"])


async def test_a_cursor_is_good_for_its_summary_alone(http: aiohttp.ClientSession) -> None:
    await record_all(http, [*made_up_usage(9, 1), *made_up_usage(9, 1, "other")])
    cursor = (await summary(http, groupBy="service,day", limit="1"))["nextCursor"]
    (await get(http, f"/customers/acme/summary?groupBy=service,day&cursor={cursor}")).require(200)
    for path in ("/customers/acme/summary?groupBy=day", "/customers/other/summary?groupBy=service,day", "/summary?"):
        (await get(http, f"{path}&cursor={cursor}")).problem("validation_error", "query/cursor")


async def test_a_time_when_there_can_be_no_usage(http: aiohttp.ClientSession) -> None:
    await record_all(http, made_up_usage(3, seed=1))
    for start in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z", "9999-01-01T00:00:00Z"):
        for members in ("", "hour", "service,month"):
            answer = await summary(http, groupBy=members, **{"from": start})
            assert (answer["groups"], answer["total"], answer["to"]) == ([], ZERO, None)
    assert (await summary(http, groupBy="day", to="0001-01-01T00:00:00Z"))["total"] == ZERO
    moment = "2026-01-01T00:00:00Z"
    assert (await summary(http, to=moment, **{"from": moment}))["total"] == ZERO


@pytest.mark.parametrize(
    ("zone", "instant", "hour"),
    [
        ("Africa/Monrovia", "1969-07-20T12:00:00Z", "1969-07-20T11:00:30-00:44"),  # -00:44:30
        ("Africa/Monrovia", "1969-07-20T00:44:29Z", "1969-07-19T23:00:30-00:44"),
        ("Europe/Amsterdam", "1937-01-01T12:00:27Z", "1937-01-01T12:00:28+00:20"),  # +00:19:32
        ("Europe/Berlin", "1880-05-01T23:06:32Z", "1880-05-02T00:00:32+00:54"),  # +00:53:28
        ("Asia/Kathmandu", "2026-01-01T00:00:00Z", "2026-01-01T05:00:00+05:45"),
    ],
)
async def test_an_hour_is_a_time_of_rfc_3339(http: aiohttp.ClientSession, zone: str, instant: str, hour: str) -> None:
    await record_all(http, [usage(occurredAt=instant)])
    (group,) = (await summary(http, groupBy="hour,day", timezone=zone))["groups"]
    assert (group["hour"], group["day"]) == (hour, hour[:10])
    begun = datetime.fromisoformat(hour)
    assert timedelta(0) <= datetime.fromisoformat(instant) - begun < timedelta(hours=1)
    assert begun.astimezone(UTC).isoformat() == label({"occurredAt": instant}, "hour", zone)
