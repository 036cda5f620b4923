"""What 1, 4, 16 and 64 nodes take, worked out from the CPU and the bytes that a record costs. Prints what it assumes.

python -m benchmarks.scaling --cores 16 --disk 10 --busy 0.5
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
        holder: On a cluster, at the node that holds the customer.
        contact: On a cluster, at the node that the service is connected to.
    """

    how: str
    one: float
    holder: float
    contact: float


# PostgreSQL 15 and Citus 13.2 on 2 cores: a coordinator, two workers with two shards each; 200 customers; fsync off
COSTS = (
    Cost("batches of 1,000", 16.6, 21.3, 2.6),
    Cost("512 connections", 25.9, 51.1, 7.1),
    Cost("64 connections", 38.4, 130.6, 25.6),
)


def capacity(cost: Cost, nodes: int, cores: int, busy: float) -> float:
    """Records a second. Every node holds customers, and serves its share of the services as their contact."""
    each = cost.one if nodes == 1 else cost.holder + cost.contact
    return nodes * cores * busy * 1_000_000 / each


def table(cores: int, disk: float, busy: float) -> str:
    """The table, in Markdown, and what it assumes."""
    columns = ["nodes", *(f"records/s, {cost.how}" for cost in COSTS), "records stored"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---:|" * len(columns)]
    for nodes in NODES:
        rates = [f"{capacity(cost, nodes, cores, busy):,.0f}" for cost in COSTS]
        stored = nodes * disk * 1e12 / RECORD_BYTES / 1e9
        lines.append(f"| {' | '.join([str(nodes), *rates, f'{stored:,.0f} billion'])} |")
    costs = [f"- {cost.how}: {cost.one:g} / {cost.holder:g} + {cost.contact:g}" for cost in COSTS]
    lines += [
        "",
        f"Assumed: {cores} cores a node, {busy:.0%} of them used for this; {disk:g} TB of disk a node,",
        f"{RECORD_BYTES} bytes a record, and no replicas. Customers are spread evenly over the nodes, and services",
        "over the nodes that they connect to. There is a service with that many connections for each two nodes.",
        "Disks, network and locks keep up with the cores. CPU a record in µs, on one PostgreSQL / at the node that",
        "holds the customer + at the node that the service connects to:",
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
