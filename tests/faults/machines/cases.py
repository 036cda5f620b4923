"""Makes a case: usage is reported while it befalls the servers. Then the last primary is held against the journals.

Each case has servers of its own. Where replication promises less than all, what is lost is counted. Then everything is
sent once more, as producers do after a restore: what recorders kept by `billing spool resend`, the rest from the
journals. After that nothing may be lost or doubled any more.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from billing_client import BillingSystemClient
from tests.faults.check import Check, Findings
from tests.faults.journal import Intended, read_journal
from tests.faults.machines.scenarios import CASES
from tests.faults.machines.stage import MachinesStage, open_machines
from tests.faults.plan import SHARES
from tests.faults.producer import Task
from tests.faults.stage import PATIENCE_SECONDS, ROOT, StuckError
from tests.services import ServiceProcess

DROPS, DROP_SECONDS = 20, 0.1
KEPT, BEFORE = "24h", "2026-01-01T00:00:00Z"


class Outcome(Struct, frozen=True):
    """What a case came to.

    `lost` were lost by the failure itself, `resent` of these came back from spools; `findings` is the check at the end.
    """

    name: str
    lost: int
    resent: int
    findings: Findings
    recoveries: list[float]
    troubles: list[str]
    seconds: float

    @property
    def violations(self) -> list[str]:
        """Each promise that was broken, as a line for a person."""
        found = self.findings
        counted = {
            "lost": found.lost + (0 if CASES[self.name].may_lose else self.lost),
            "doubled": found.doubled,
            "with other numbers": found.changed,
            "unknown at the end": found.unknown,
            "refused": found.refused,
        }
        lines = [f"{count} {what}" for what, count in counted.items() if count]
        return [f"{self.name}: {line}" for line in lines + found.differences + self.troubles]


async def run_case(name: str, records: int, seed: int, folder: Path) -> Outcome:
    """Report so many records while the case befalls the servers, and check all."""
    case, began = CASES[name], time.monotonic()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with open_machines(folder, case.machines) as stage:
        await stage.add_producers(_tasks(stage, records, seed))
        await _report_amid(name, stage)
        lost = resent = 0
        async with BillingSystemClient(base_url=_url(stage), timeout=PATIENCE_SECONDS) as client:
            if case.may_lose:
                lost, resent = await _send_again(stage, client)
            findings = await _check(stage, stage.tasks, client)
        for index in range(len(stage.ports)):
            await stage.stop_service(index)
    return Outcome(name, lost, resent, findings, stage.recoveries, stage.troubles, time.monotonic() - began)


def _url(stage: MachinesStage) -> str:
    return f"http://127.0.0.1:{stage.front.port}"


def _tasks(stage: MachinesStage, records: int, seed: int) -> list[Task]:
    return [
        Task(index, kind, seed, round(records * share), _url(stage), str(stage.folder), keep_delivered=KEPT)
        for index, (kind, share) in enumerate(SHARES)
    ]


async def _report_amid(name: str, stage: MachinesStage) -> None:
    """Let all be reported. The case begins once a tenth was, and the last part follows little by little."""
    try:
        await _release(stage, 0.0, 0.3)
        await stage.until_settled(0.1)
        async with asyncio.TaskGroup() as group:
            group.create_task(CASES[name].scenario(stage))
            group.create_task(_release(stage, 0.3, 1.0))
        await stage.until_settled(1.0)
        await stage.end_producers()
    except* StuckError as error:
        stage.troubles += map(str, error.exceptions)


async def _release(stage: MachinesStage, start: float, end: float) -> None:
    for drop in range(1, DROPS + 1):
        stage.allow(start + (end - start) * drop / DROPS)
        await asyncio.sleep(DROP_SECONDS)


async def _check(stage: MachinesStage, tasks: Sequence[Task], client: BillingSystemClient) -> Findings:
    check = await asyncio.to_thread(Check, tasks)
    return await check.hold_against(stage.url, client)


async def _send_again(stage: MachinesStage, client: BillingSystemClient) -> tuple[int, int]:
    """Send all once more. Gives how much was lost, and how much of that came back from spools."""
    lost = (await _check(stage, stage.tasks, client)).lost
    spools = [task for task in stage.tasks if task.spool.exists()]
    of_recorders = (await _check(stage, spools, client)).lost
    for task in spools:
        await _billing(stage, "resend", str(task.spool), "--since", BEFORE)
        await _billing(stage, "flush", str(task.spool))
    if left := (await _check(stage, spools, client)).lost:
        stage.troubles.append(f"{left} of {of_recorders} lost records of recorders did not come back by a resend")
    entries = (entry for task in stage.tasks for entry in read_journal(task.journal))
    usages = [entry.line.usage() for entry in entries if isinstance(entry, Intended)]
    async for outcome in client.record_usages(usages):
        if outcome.record is None:
            stage.troubles.append(f"usage that was sent again is refused: {outcome.error}")
    return lost, of_recorders


async def _billing(stage: MachinesStage, *arguments: str) -> None:
    """Run `billing spool`, as an operator does after a loss."""
    environment = {"BILLING_BASE_URL": _url(stage), "PYTHONPATH": str(ROOT)}
    command = ServiceProcess(
        stage.folder / "cli", "spool", *arguments, environment=environment, module="billing_client.cli"
    )
    if code := await asyncio.to_thread(command.wait, PATIENCE_SECONDS):
        stage.troubles.append(f"billing spool {arguments[0]} ended with {code}:\n{command.output}")
