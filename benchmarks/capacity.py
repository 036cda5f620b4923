"""What 1, 4, 16 and 64 nodes take, worked out from the CPU and the bytes that a record costs. Prints what it assumes.

python -m benchmarks.capacity --cores 16 --disk 10 --busy 0.5
"""

import argparse
from typing import NamedTuple

NODES = (1, 4, 16, 64)
RECORD_BYTES = 408  # 157 in the table, 251 in its indexes


class Cost(NamedTuple):
    """Microseconds of CPU that a record costs the database.

    Attributes:
        how: How the records arrive.
        one: On one PostgreSQL.
        cluster: On a cluster, where the service knows all nodes.
    """

    how: str
    one: float
    cluster: float


# PostgreSQL 15 and Citus 13.2, 2 busy cores: a coordinator, two workers of two shards each; 200 customers; fsync off
COSTS = (
    Cost("batches of 1,000", 22.5, 25.2),
    Cost("512 connections", 35.3, 39.9),
    Cost("64 connections", 54.3, 116.4),
)


def capacity(cost: Cost, nodes: int, cores: int, busy: float) -> float:
    """Records a second. Every node holds customers."""
    each = cost.one if nodes == 1 else cost.cluster
    return nodes * cores * busy * 1_000_000 / each


def table(cores: int, disk: float, busy: float) -> str:
    """The table, in Markdown, and what it assumes."""
    columns = ["nodes", *(f"records/s, {cost.how}" for cost in COSTS), "records stored"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---:|" * len(columns)]
    for nodes in NODES:
        rates = [f"{capacity(cost, nodes, cores, busy):,.0f}" for cost in COSTS]
        stored = nodes * disk * 1e12 / RECORD_BYTES / 1e9
        lines.append(f"| {' | '.join([str(nodes), *rates, f'{stored:,.0f} billion'])} |")
    costs = [f"- {cost.how}: {cost.one:g} / {cost.cluster:g}" for cost in COSTS]
    lines += [
        "",
        f"Assumed: {cores} cores a node, {busy:.0%} of them used for this; {disk:g} TB of disk a node,",
        f"{RECORD_BYTES} bytes a record, and no replicas. Customers are spread evenly over the nodes, and there is a",
        "service with that many connections for each two nodes. Its DATABASE_URL names all nodes. Disks, network and",
        "locks keep up with the cores. CPU a record in µs, on one PostgreSQL / on a cluster:",
        "",
        *costs,
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table for the machines that the options describe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cores", type=int, default=16, help="cores of a node")
    parser.add_argument("--disk", type=float, default=10, help="terabytes of disk of a node")
    parser.add_argument("--busy", type=float, default=0.5, help="the part of the cores that may be used, from 0 to 1")
    options = parser.parse_args()
    print(table(options.cores, options.disk, options.busy))


if __name__ == "__main__":
    main()
