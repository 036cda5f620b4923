"""No body costs more than a few times its size, in memory or in the answer, nor more than linear time."""

import json
import subprocess
import sys

import pytest

from tests.client.contract.hostile_bodies import BODIES

MEMORY, ANSWER = 8, 2
HANG_SECONDS = 300  # what took quadratic time would take days


@pytest.mark.slow
def test_reading_a_body_takes_a_few_times_its_memory_and_its_answer_is_bounded() -> None:
    """All of them in one process of their own, which measures memory and answer as parts of the body."""
    program = [sys.executable, "-m", "tests.client.contract.hostile_bodies"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    costs = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(costs) == 2 * len(BODIES)  # each as a batch and as usage
    assert [cost for cost in costs if cost[2] > MEMORY or cost[3] > ANSWER] == []
