"""The web application of many workers, run shortly: what was acknowledged is what is billed."""

import random
from pathlib import Path

import pytest

from tests.faults.webapp.run import run


@pytest.mark.slow
async def test_what_workers_acknowledged_is_billed_whatever_is_killed(database_url: str, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    found = await run(tmp_path, database_url, requests=400, kills=2, seed=seed)
    assert found.is_right, found
    assert (found.worker_kills, found.service_kills) == (2, 1)
    assert found.hung_up > 50
