"""Nodes of a cluster fail, and shards move, while usage is reported."""

import pytest

from tests.citus import Cluster
from tests.databases import Server
from tests.faults.cluster import run_faults


@pytest.mark.slow
async def test_a_cluster_that_fails_loses_nothing_and_doubles_nothing(
    database_server: Server, database_url: str
) -> None:
    if not database_server.is_cluster:
        pytest.skip("needs a cluster of Citus: set BILLING_TEST_CITUS_URL")
    run = await run_faults(Cluster(database_server.url), database_url.rpartition("/")[2], 1)
    assert run.violations == []
    assert set(run.statuses) <= {200, 201, 503}
    assert len(run.acknowledged) > 100
