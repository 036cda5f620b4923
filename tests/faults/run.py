"""A run: the stage is set, the faults are made while producers report, and all is checked at the end."""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from billing_client import BillingSystemClient
from tests.faults.check import Check, Findings
from tests.faults.faults import FAULTS
from tests.faults.plan import Plan
from tests.faults.producer import Task
from tests.faults.stage import Stage, StuckError, open_stage
from tests.services import ServiceProcess

DROPS, DROP_SECONDS = 8, 0.2


class Report(Struct):
    """What a run came to. `troubles` are ends out of order, waits without end, differences that `verify` names."""

    plan: Plan
    faults: Counter[str]
    findings: Findings
    troubles: list[str]
    left_out: list[str]
    seconds: float

    @property
    def violations(self) -> list[str]:
        """Each promise that was broken, as a line for a person; none where the run went well."""
        found = self.findings
        counted = {
            "lost": found.lost,
            "doubled": found.doubled,
            "stored or told with other numbers": found.changed,
            "unknown at the end": found.unknown,
            "told to be another call's duplicate": found.unexpected_duplicates,
            "refused without a reason": found.refused,
        }
        lines = [f"{count} {what}" for what, count in counted.items() if count]
        if found.records != self.plan.records:
            lines.append(f"{found.records} records were reported, not {self.plan.records}")
        return lines + found.differences + self.troubles


async def run_plan(plan: Plan, folder: Path) -> Report:
    """Carry a plan out in a folder, in which journals and output are left."""
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_stage(folder, plan.service_module))
        left_out = [] if stage.disk else ["PostgreSQL: disk full (only root can mount a disk to fill)"]
        faults: Counter[str] = Counter()
        await stage.add_producers(_tasks(plan, stage, folder))
        try:
            await _make_faults(plan, stage, faults)
            await _calm(stage)
        except StuckError as error:
            stage.troubles.append(str(error))
        findings = await _check(stage)
    if left_out:
        faults.pop("PostgreSQL: disk full", None)
    return Report(plan, faults, findings, stage.troubles, left_out, time.monotonic() - started)


def _tasks(plan: Plan, stage: Stage, folder: Path) -> list[Task]:
    counts = [round(plan.records * share) for _, share in plan.shares]
    counts[-1] += plan.records - sum(counts)
    url = f"http://127.0.0.1:{stage.front.port}"
    return [
        Task(index, kind, plan.seed, count, url, str(folder), plan.planted_client)
        for index, ((kind, _), count) in enumerate(zip(plan.shares, counts, strict=True))
    ]


async def _make_faults(plan: Plan, stage: Stage, faults: Counter[str]) -> None:
    """Make each step amid its part of the records, once all parts before are settled; the first part sees no fault."""
    parts = len(plan.steps) + 2
    await _release(stage, 0, 1 / parts)
    for index, step in enumerate(plan.steps, 1):
        await stage.until_settled(index / parts)
        drawn = [(FAULTS[name], random.Random(f"{plan.seed}/{index}/{name}")) for name in step]
        await asyncio.gather(
            _release(stage, index / parts, (index + 1) / parts), *(fault(stage, draw) for fault, draw in drawn)
        )
        faults.update(step)


async def _release(stage: Stage, start: float, end: float) -> None:
    """Let a share of the records be reported, little by little, so that it lasts while a fault does."""
    for drop in range(1, DROPS + 1):
        stage.allow(start + (end - start) * drop / DROPS)
        await asyncio.sleep(DROP_SECONDS)


async def _calm(stage: Stage) -> None:
    """Let all that is left be reported, without a fault."""
    for proxy in (stage.front, stage.database):
        proxy.requests.clear()
        proxy.answers.clear()
    stage.allow(1.0)
    await stage.until_settled(1.0)
    await stage.end_producers()


async def _check(stage: Stage) -> Findings:
    """Hold the journals against the database and the service; stop the service; let it verify itself."""
    check = await asyncio.to_thread(Check, stage.tasks)
    async with BillingSystemClient(base_url=f"http://127.0.0.1:{stage.front.port}") as client:
        findings = await check.hold_against(stage.url, client)
    for index in range(len(stage.ports)):
        await stage.stop_service(index)
    verify = ServiceProcess(stage.folder, "verify", environment={"DATABASE_URL": stage.url})
    if await asyncio.to_thread(verify.wait, 600) != 0:
        stage.troubles.append(verify.output)
    return findings
