"""Clients of the web applications: calls that are repeated until they are answered, and streams that are hung up on."""

import asyncio
import itertools
import random
from collections.abc import Collection, Iterator

import aiohttp

HANG_UPS = 0.3  # the share of streams, each of which is hung up on
AGAIN_SECONDS = 0.05


class WebLoad:
    """Makes requests, each of its own name. `answered` are the calls that were answered, `streams` those hung up on."""

    def __init__(self, url: str, draw: random.Random) -> None:
        self.url = url
        self.answered: set[str] = set()
        self.streams: set[str] = set()
        self.pids: set[int] = set()
        self._draw = draw
        self._numbers = itertools.count()

    async def make(self, requests: int, at_once: int) -> None:
        """Make so many more requests; returns when each call among them was answered."""
        numbers = iter([next(self._numbers) for _ in range(requests)])
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            await asyncio.gather(*(self._caller(session, numbers) for _ in range(at_once)))

    async def repeat(self, names: Collection[str]) -> None:
        """Make calls of these names."""
        async with aiohttp.ClientSession() as session:
            for name in sorted(names):
                await self._call(session, name)

    async def _caller(self, session: aiohttp.ClientSession, numbers: Iterator[int]) -> None:
        for number in numbers:  # which the callers share
            if self._draw.random() < HANG_UPS:
                await self._stream(session, f"stream-{number}")
            else:
                await self._call(session, f"call-{number}")

    async def _call(self, session: aiohttp.ClientSession, name: str) -> None:
        """Make a call until it is answered."""
        while True:
            try:
                async with session.post(f"{self.url}/calls/{name}") as response:
                    body = await response.json()
                    if response.status == 200:
                        self.pids.add(body["pid"])
                        self.answered.add(name)
                        return
            except (aiohttp.ClientError, OSError, ValueError):
                pass  # its worker was killed
            await asyncio.sleep(AGAIN_SECONDS)

    async def _stream(self, session: aiohttp.ClientSession, name: str) -> None:
        """Hang up amid a stream."""
        try:
            async with session.get(f"{self.url}/streams/{name}") as response:
                await response.content.readany()
                if response.status == 200:
                    self.streams.add(name)
                await asyncio.sleep(self._draw.uniform(0, 0.01))
                response.close()
        except (aiohttp.ClientError, OSError):
            pass  # its worker was killed
