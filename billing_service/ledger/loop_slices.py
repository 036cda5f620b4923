"""Long work on the event loop, cut into slices, so that small requests do not wait for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
SLICE_SECONDS = 0.001
FIRST, LEAST, MOST = 100, 25, 1_000  # items of a slice
PASSES = 3  # of the event loop between two slices: a small request takes several from its first byte to its answer


async def in_slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The items, as many at a time as take about SLICE_SECONDS, going by the slice before.

    Between two slices the event loop serves everyone else.
    """
    start, size = 0, FIRST
    while start < len(items):
        began = time.perf_counter()
        yield items[start : start + size]
        start += size
        if start < len(items):
            size = _next_size(size, time.perf_counter() - began)
            await let_others_in()


async def taken_in_slices(items: list[T]) -> AsyncIterator[list[T]]:
    """As `in_slices`, but the list is emptied meanwhile: to free very many objects at once takes milliseconds too."""
    items.reverse()
    size = FIRST
    while items:
        began = time.perf_counter()
        part = items[: -size - 1 : -1]
        del items[-size:]
        yield part
        del part
        if items:
            size = _next_size(size, time.perf_counter() - began)
            await let_others_in()


async def free_in_slices(*lists: list[Any]) -> None:
    """Empty lists of the same objects, if they are long."""
    if max(map(len, lists)) > MOST:
        for each in lists:
            async for _ in taken_in_slices(each):
                pass


async def sorted_in_slices(items: Sequence[T], place: Callable[[T], str]) -> list[T]:
    """The items in the order of a text that each has for itself: slices are sorted, and then merged."""
    by_place: dict[str, T] = {}
    places: list[str] = []
    async for part in in_slices(items):
        some = {place(item): item for item in part}
        by_place |= some
        places += sorted(some)
    places.sort()  # of what is sorted in parts, it takes a fifth of the time
    return [by_place[each] for each in places]


async def encoded_in_slices(items: Sequence[object]) -> msgspec.Raw:
    """The JSON array of the items."""
    parts = [_encode(part)[1:-1] async for part in in_slices(items)]
    return msgspec.Raw(b"[" + b",".join(parts) + b"]")


def _next_size(size: int, seconds: float) -> int:
    return int(min(max(size * SLICE_SECONDS / seconds, LEAST), MOST, 2 * size))


async def let_others_in() -> None:
    """Let the event loop serve everyone else before the work goes on."""
    for _ in range(PASSES):
        await asyncio.sleep(0)
