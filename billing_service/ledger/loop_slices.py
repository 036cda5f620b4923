"""Long work on the event loop, cut into slices, so that small requests do not wait for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")
SLICE_RECORDS = 250  # 2 to 3 ms of decoding, hashing or comparing


async def in_slices(items: Sequence[T], size: int = SLICE_RECORDS) -> AsyncIterator[Sequence[T]]:
    """The items, `size` at a time. Between two slices the event loop serves everyone else once."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]
