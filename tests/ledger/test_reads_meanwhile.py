"""Reads go on while writes wait for a standby that is away, and API keys are looked up."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from billing_service.pace import Pace
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.keys import bearer, given_key
from tests.replication import Replication, replicating_servers, url_of
from tests.services import running_service

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' OR wait_event_type = 'Lock'"
POOL_SIZE = 6
SHARE = 4  # of it that writes may hold


@pytest.fixture(scope="module")
def servers() -> Iterator[Replication]:
    """A primary and its standby; commits wait for the standby."""
    with replicating_servers() as servers:
        servers.primary.replicate_synchronously()
        yield servers


async def test_reads_go_on_while_writes_wait(servers: Replication) -> None:
    url = url_of(servers.primary.address, database=servers.primary.create_database())
    keys = [await given_key(url, "admin") for _ in range(4)]
    settings = Settings(database_url=url, env="production", pool_size=POOL_SIZE, database_timeout=30)
    with running_service(settings, pace=Pace(key_seconds=0.0)) as service:  # each call looks its key up
        async with aiohttp.ClientSession(service.url, headers=bearer(keys[0])) as http:
            await given_customer(http)
            (await post(http, "/usage", usage(eventId="1"))).require(201)
            servers.standby.stop()
            batches = [
                asyncio.create_task(post(http, "/usage/batch", {"records": [usage(eventId=f"b{n}")]})) for n in range(9)
            ]
            single = asyncio.create_task(post(http, "/usage", usage(eventId="2")))
            await asyncio.to_thread(servers.primary.await_value, WAITING, SHARE + 1)  # all writes it lets in
            for key in keys:  # whose first use has to be noted, too
                async with aiohttp.ClientSession(service.url, headers=bearer(key)) as other:
                    async with asyncio.timeout(20):  # less than the writes wait
                        for path in ("/customers", "/customers/acme/usage", "/customers/acme/summary", "/keys"):
                            (await get(other, path)).require(200)
            assert not any(call.done() for call in (*batches, single))
            servers.standby.start()
            answers = await asyncio.gather(*batches, single)
            assert {answer.status for answer in answers} <= {200, 201}
            assert (await get(http, "/customers/acme/summary")).require(200)["total"]["records"] == 11
