"""Every fault, amid reports, and nothing lost, doubled or unknown; and the check finds what it is there to find."""

import random
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.plan import Plan, make_plan
from tests.faults.run import run_plan


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_every_fault_is_survived(tmp_path: Path) -> None:
    plan = make_plan(seed=random.randrange(10**6), records=12_000)
    report = await run_plan(plan, tmp_path)
    assert report.violations == [], f"python -m tests.faults --records {plan.records} --seed {plan.seed}"
    assert report.findings.acknowledged == plan.records
    assert report.findings.replayed > 0  # faults hit: some answers were lost after the commit
    assert len(report.faults) == len(FAULTS) - len(report.left_out)


@pytest.mark.slow
async def test_an_acknowledgement_before_the_commit_is_caught(tmp_path: Path) -> None:
    plan = Plan(
        seed=1,
        records=1_000,
        steps=[("service: kill -9 of both",)] * 2,
        shares=(("single", 0.5), ("batch", 0.5)),
        service_module="tests.faults.planted",
    )
    report = await run_plan(plan, tmp_path)
    assert report.findings.lost > 0
    assert any(line.endswith(" lost") for line in report.violations)


@pytest.mark.slow
async def test_a_new_idempotency_key_for_each_retry_is_caught(tmp_path: Path) -> None:
    cut_off = ("client to service: answers cut off, after the commit",)
    plan = Plan(seed=1, records=1_000, steps=[cut_off] * 5, planted_client=True)
    report = await run_plan(plan, tmp_path)
    assert report.findings.unexpected_duplicates > 0
    assert report.findings.lost == report.findings.doubled == 0
