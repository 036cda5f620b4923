"""The plan of a run: which faults, in which order, amid how many records. The same seed makes the same plan."""

import random
from collections.abc import Sequence

from msgspec import Struct

from tests.faults.faults import GROUPS
from tests.faults.producer import Kind

RECORDS_A_STEP = 5_000
SHARES: tuple[tuple[Kind, float], ...] = (("single", 0.1), ("batch", 0.3), ("batch", 0.3), ("spool", 0.3))
_TOGETHER = 0.2  # how often two faults are made at once


class Plan(Struct, frozen=True):
    """`steps` are made one after the other, the faults of one step together; `records` are spread over them.

    `shares` are the producers: the kind of each, and how much of the records it reports.
    """

    seed: int
    records: int
    steps: list[tuple[str, ...]]
    shares: tuple[tuple[Kind, float], ...] = SHARES
    service_module: str = "billing_service"
    planted_client: bool = False


def make_plan(seed: int, records: int, leave_out: Sequence[str] = ()) -> Plan:
    """Every fault at least once, each about as often as every other, in an order of the seed's own."""
    draw = random.Random(seed)
    groups = {name: group for group, faults in GROUPS.items() for name in faults if name not in leave_out}
    steps: list[tuple[str, ...]] = []
    while len(steps) < records // RECORDS_A_STEP or not steps:
        round_ = draw.sample(sorted(groups), len(groups))
        while round_:
            name = round_.pop()
            others = [other for other in round_ if groups[other] != groups[name]]
            if others and draw.random() < _TOGETHER:
                other = draw.choice(others)
                round_.remove(other)
                steps.append((name, other))
            else:
                steps.append((name,))
    return Plan(seed, records, steps)
