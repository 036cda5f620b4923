"""Reading a bill: summaries, pages of a listing, and the export."""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import aiohttp
import msgspec
import uvloop

from benchmarks.load import Caller, get
from benchmarks.report import Sample, Samples
from benchmarks.servers import Process
from benchmarks.stage import Way
from billing_client.contract.wire import Summary, UsagePage

PAGE, LARGEST_PAGE = 100, 1_000
GROUPINGS = ("", "service", "day")
# midnight is at the edge of a 3-hour bucket in UTC and Tokyo, and within one in the others
ZONES = ("UTC", "Asia/Kolkata", "Asia/Tokyo", "Asia/Kabul", "Australia/Lord_Howe")
_summary = msgspec.json.Decoder(Summary[str]).decode
_page = msgspec.json.Decoder(UsagePage[str]).decode


def summary_ways(port: int, sides: Mapping[str, str], month: datetime) -> list[Way]:
    """A month's summary of each of the customers."""
    return [
        Way(
            Samples(f"summary{f' by {grouping}' if grouping else ''}, {zone}", side, "/s"),
            partial(read, port, _summary_path(customer, month, grouping, zone)),
        )
        for zone in ZONES
        for grouping in GROUPINGS
        for side, customer in sides.items()
    ]


def _summary_path(customer: str, month: datetime, grouping: str, zone: str) -> str:
    start = month.replace(tzinfo=ZoneInfo(zone))
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    asked = {"from": start.isoformat(), "to": end.isoformat(), "groupBy": grouping, "timezone": zone}
    return f"/customers/{customer}/summary?{urlencode(asked)}"


def dimension_ways(port: int, customer: str, month: datetime) -> list[Way]:
    """A month's summary by service, and by a dimension."""
    return [
        Way(
            Samples(f"summary{f' by {period}' if period else ''}, {zone}", f"by {of}", "/s"),
            partial(read, port, _summary_path(customer, month, f"{of},{period}".rstrip(","), zone)),
        )
        for zone in ZONES
        for period in ("", "day")
        for of in ("service", "dimension.model")
    ]


def page_ways(port: int, customer: str, records: int) -> list[Way]:
    """The first page of a listing, and its last."""
    path = f"/customers/{customer}/usage?limit={PAGE}"
    last = asyncio.run(_cursor_of_last(port, customer, records))
    number = records // PAGE
    return [
        Way(Samples(f"pages of {PAGE}", "page 1", "/s"), partial(read, port, path)),
        Way(Samples(f"pages of {PAGE}", f"page {number:,}", "/s"), partial(read, port, f"{path}&cursor={last}")),
    ]


async def _cursor_of_last(port: int, customer: str, records: int) -> str | None:
    """Walk there in the largest steps: a cursor is good for pages of every size."""
    cursor, left = None, records - PAGE
    async with Caller(port) as call:
        while left:
            step = min(left, LARGEST_PAGE)
            query = urlencode({"limit": step} | ({"cursor": cursor} if cursor else {}))
            status, body = await call(get(f"/customers/{customer}/usage?{query}"))
            if status != 200:
                raise RuntimeError(f"a page was answered with {status}: {body[:500]!r}")
            cursor, left = _page(body).next_cursor, left - step
    return cursor


def read(port: int, path: str, _: str, seconds: int) -> Sample:
    return uvloop.run(_read_for(port, get(path), seconds))


async def _read_for(port: int, request: bytes, seconds: int) -> Sample:
    taken = []
    async with Caller(port) as call:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            sent = time.perf_counter()
            status, body = await call(request)
            taken.append(time.perf_counter() - sent)
            if status != 200:
                raise RuntimeError(f"a read was answered with {status}: {body[:500]!r}")
    return Sample(1 / median(taken), median(taken) * 1e3, sorted(taken)[len(taken) * 99 // 100] * 1e3)


def export(process: Process) -> str:
    """Export everything; says what the service's memory rose to."""
    before = memory(process, "VmRSS")
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak
    started = time.perf_counter()
    records = asyncio.run(_count_lines(f"http://127.0.0.1:{process.port}/usage/export?format=ndjson"))
    elapsed, peak = time.perf_counter() - started, memory(process, "VmHWM")
    return (
        f"- export: {records:,} records in {elapsed:.0f} s; the service's memory rose from {before:.1f} MB"
        f" to at most {peak:.1f} MB, by {peak - before:.1f} MB"
    )


async def _count_lines(url: str) -> int:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        response.raise_for_status()
        return sum([chunk.count(b"\n") async for chunk in response.content.iter_any()])


def memory(process: Process, field: str) -> float:
    """A figure of /proc/PID/status, in megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no {field} of process {process.pid}")
    return int(found[1]) * 1024 / 1e6
