"""Which cores the benchmark of several workers runs its parts on."""

import pytest

from benchmarks.scaling import Placement, place


@pytest.mark.parametrize(
    ("cores", "workers", "placement", "shared"),
    [
        (8, 2, Placement([0, 1], [4, 5, 6, 7], [2, 3]), "none is shared"),
        (4, 2, Placement([0, 1], [0, 1, 2, 3], [2, 3]), "shared: 0, 1, 2, 3"),
        (3, 1, Placement([0], [2], [1]), "none is shared"),
        (2, 2, Placement([0, 1], [0, 1], [0, 1]), "shared: 0, 1"),
        (1, 1, Placement([0], [0], [0]), "shared: 0"),
    ],
)
def test_each_part_has_cores_of_its_own_where_there_are_enough(
    cores: int, workers: int, placement: Placement, shared: str
) -> None:
    placed = place(range(cores), workers)
    assert placed == placement
    assert str(placed).endswith(shared)
