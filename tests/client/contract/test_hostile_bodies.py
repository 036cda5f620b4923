"""No body costs more than a few times its size, in memory or in the answer, nor more than linear time."""

import json
import subprocess
import sys

import pytest

from tests.client.contract.hostile_bodies import BODIES

MEMORY, ANSWER = 8, 2
HANG_SECONDS = 300  # what took quadratic time would take days

Costs = dict[tuple[str, bool], tuple[float, float]]


@pytest.fixture(scope="module")
def costs() -> Costs:
    """What reading each body costs, measured in a process of its own: (memory, answer), as parts of the body."""
    program = [sys.executable, "-m", "tests.client.contract.hostile_bodies"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    return {
        (name, is_batch): (memory, answer)
        for name, is_batch, memory, answer in map(json.loads, done.stdout.split("\n")[:-1])
    }


@pytest.mark.parametrize("is_batch", [True, False], ids=["batch", "usage"])
@pytest.mark.parametrize("name", BODIES)
def test_reading_a_body_takes_a_few_times_its_memory_and_its_answer_is_bounded(
    costs: Costs, name: str, is_batch: bool
) -> None:
    memory, answer = costs[name, is_batch]
    assert memory <= MEMORY
    assert answer <= ANSWER
