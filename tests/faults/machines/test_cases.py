"""The loss of a machine, briefly; `python -m tests.faults --replication` makes every case."""

from pathlib import Path

import pytest

from tests.faults.machines.cases import run_case


@pytest.mark.slow
async def test_a_primary_that_is_lost_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    outcome = await run_case("primary killed, standby promoted", 400, seed=1, folder=tmp_path)
    assert outcome.violations == []
    assert (outcome.lost, outcome.findings.acknowledged, len(outcome.recoveries)) == (0, 400, 1)
