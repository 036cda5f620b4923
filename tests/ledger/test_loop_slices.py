"""Long work in slices: everything comes, in order, and others get their turn in between."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise

import pytest

from billing_service.ledger.loop_slices import (
    FIRST,
    LEAST,
    MOST,
    PASSES,
    SLICE_SECONDS,
    encoded_in_slices,
    in_slices,
    sorted_in_slices,
    taken_in_slices,
)

SLICED: list[Callable[[list[int]], AsyncIterator[Sequence[int]]]] = [in_slices, taken_in_slices]


@pytest.mark.parametrize("slices", SLICED)
@pytest.mark.parametrize("count", [0, 1, FIRST, FIRST + 1, 10_000])
async def test_everything_comes_in_order(
    slices: Callable[[list[int]], AsyncIterator[Sequence[int]]], count: int
) -> None:
    assert [item async for part in slices(list(range(count))) for item in part] == list(range(count))


@pytest.mark.parametrize("slices", SLICED)
async def test_others_have_several_turns_between_two_slices(
    slices: Callable[[list[int]], AsyncIterator[Sequence[int]]],
) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    seen = [turns async for _ in slices(list(range(5_000)))]
    waiting.cancel()
    assert len(seen) > 5_000 // MOST
    assert all(after - before >= PASSES for before, after in pairwise(seen))


@pytest.mark.parametrize("slices", SLICED)
async def test_work_that_takes_long_is_cut_smaller(
    slices: Callable[[list[int]], AsyncIterator[Sequence[int]]],
) -> None:
    sizes = []
    async for part in slices(list(range(FIRST + 10 * LEAST))):
        sizes.append(len(part))
        time.sleep(SLICE_SECONDS * len(part) / LEAST)  # noqa: ASYNC251 - it is the loop that is to be kept busy
    assert sizes == [FIRST, *[LEAST] * 10]


async def test_what_was_taken_is_let_go() -> None:
    items = list(range(1_000))
    async for part in taken_in_slices(items):
        assert len(items) <= 1_000 - len(part)
    assert items == []


@pytest.mark.parametrize("count", [0, 1, FIRST + 1, 5_000])
async def test_slices_are_sorted_and_merged(count: int) -> None:
    numbers = random.sample(range(10_000), count)
    assert await sorted_in_slices(numbers, lambda number: f"{number:05}") == sorted(numbers)


@pytest.mark.parametrize("count", [0, 1, FIRST + 1, 5_000])
async def test_slices_are_encoded_as_one_array(count: int) -> None:
    assert json.loads(bytes(await encoded_in_slices(list(range(count))))) == list(range(count))
