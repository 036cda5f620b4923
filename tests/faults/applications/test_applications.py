"""Applications with the blocking client, run shortly: what was acknowledged is what is billed.

`tests/examples/test_fastapi_llm.py` does the same with asyncio.
"""

import random
from pathlib import Path

import pytest

from tests.faults.applications.run import run
from tests.redis_servers import needs_redis


@pytest.mark.slow
@pytest.mark.parametrize(
    ("producer", "kills"),
    [
        ("flask", {"worker": 2, "service": 1}),
        pytest.param("celery", {"worker": 1, "whole": 1, "service": 1}, marks=needs_redis),
    ],
)
async def test_what_workers_acknowledged_is_billed_whatever_is_killed(
    producer: str, kills: dict[str, int], database_url: str, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    found = await run(tmp_path, database_url, producer, workers=2, requests=200, kills=2, seed=seed)
    assert found.is_right, found
    assert found.kills == kills
    assert found.hung_up > 20 or producer == "celery"
