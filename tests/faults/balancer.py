"""A load balancer: a proxy that asks services whether they are ready."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.faults.proxy import Proxy
from tests.services import get_status

LOOK_SECONDS = 0.1


@asynccontextmanager
async def balanced(ports: Sequence[int]) -> AsyncIterator[Proxy]:
    """Give new connections to the ports of this machine that say that they are ready, or to all where none does."""
    ready = dict.fromkeys(ports, False)
    async with Proxy() as proxy:

        def choose() -> None:
            chosen = [port for port in ports if ready[port]] or ports
            proxy.targets[:] = [("127.0.0.1", port) for port in chosen]

        async def look(port: int) -> None:
            while True:
                ready[port] = await asyncio.to_thread(get_status, "127.0.0.1", port, "/readyz") == 200
                choose()
                await asyncio.sleep(LOOK_SECONDS)

        choose()
        looking = [asyncio.create_task(look(port)) for port in ports]
        try:
            yield proxy
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
