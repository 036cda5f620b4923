"""The one table: medians, ratios and spread, with the machine and the versions they were measured on."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from msgspec import Struct, field

_PACKAGES = (
    "pydantic",
    "asyncpg",
    "starlette",
    "uvicorn",
    "uvloop",
    "msgspec",
    "aiohttp",
    "fastapi",
    "sqlalchemy",
)


class Sample(NamedTuple):
    """What one round gave: a rate, and where they were taken the latencies of a call and the CPU time for one.

    The CPU time is the server's; for a client, and what it is compared with, it is the caller's.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None


class Samples(Struct):
    """What the rounds gave for one system in one measure. The first system of a measure is compared with the others."""

    measure: str
    system: str
    unit: str
    rounds: list[Sample] = field(default_factory=list)


def table(all_samples: Iterable[Samples]) -> str:
    """A Markdown table, a line for each system of each measure."""
    lines = [
        "| measure | system | median | min - max | p50 ms | p99 ms | CPU µs | ratio | min - max |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first: dict[str, Samples] = {}
    lines += [_line(samples, first.setdefault(samples.measure, samples)) for samples in all_samples]
    return "\n".join(lines)


def _line(samples: Samples, subject: Samples) -> str:
    rates = [sample.rate for sample in samples.rounds]
    ratios = [ours.rate / theirs.rate for ours, theirs in zip(subject.rounds, samples.rounds, strict=True)]
    cells = [
        samples.measure,
        samples.system,
        f"{median(rates):,.0f} {samples.unit}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        _median(sample.p50_ms for sample in samples.rounds),
        _median(sample.p99_ms for sample in samples.rounds),
        _median(sample.cpu_us for sample in samples.rounds),
        "" if samples is subject else f"**{median(ratios):.2f}**",
        "" if samples is subject else f"{min(ratios):.2f} - {max(ratios):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _median(values: Iterable[float | None]) -> str:
    taken = [value for value in values if value is not None]
    if not taken:
        return ""
    value = median(taken)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def circumstances(facts: Mapping[str, object]) -> str:
    """Where and with what it was measured, a line each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    known = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.platform()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions(), *_node()]),
    }
    return "\n".join(f"- {name}: {value}" for name, value in (known | dict(facts)).items())


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())


def _versions() -> Iterable[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _node() -> Iterable[str]:
    if node := shutil.which("node"):
        yield "Node " + subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
