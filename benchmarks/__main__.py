"""`python -m benchmarks`: measure the service beside its peers, and print one table."""

import argparse
from contextlib import ExitStack

from benchmarks.batches import batches
from benchmarks.clients import clients
from benchmarks.load import choose_generator
from benchmarks.report import circumstances, table
from benchmarks.servers import postgresql, query, temporary_folder
from benchmarks.singles import single_records
from benchmarks.stage import Stage, measure
from benchmarks.systems import POOL_SIZE, SYSTEMS

_SYSTEMS = {system.name: system for system in SYSTEMS}
_MEASURES = {"batches": batches, "clients": clients}


def main() -> None:
    options = _options()
    generator_name, generator = choose_generator()
    with temporary_folder() as folder, postgresql(folder) as url, ExitStack() as stack:
        stage = Stage(url, folder, options.customers, generator, [], [])
        chosen = [_SYSTEMS[name] for name in _SYSTEMS if name in options.only]
        ways = stack.enter_context(single_records(stage, chosen))
        for name, prepare in _MEASURES.items():
            if name in options.only:
                ways += stack.enter_context(prepare(stage))
        measure(ways, options.rounds, options.seconds)
        print(circumstances(_facts(stage, options, generator_name)), "\n", sep="")
        print(table(way.samples for way in ways), "\n", sep="")
        for tally in stage.tallies:
            print(f"- {tally.check()}")


def _options() -> argparse.Namespace:
    names = [*_SYSTEMS, *_MEASURES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of a second: a look, no measurement")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--seconds", type=int, default=4, help="of each measure in each round, about; default 4")
    parser.add_argument("--customers", type=int, default=100, help="that the usage is spread over; default 100")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 1
    return options


def _facts(stage: Stage, options: argparse.Namespace, generator_name: str) -> dict[str, object]:
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
    shown = ", ".join(f"{name} {query(stage.server_url, f'SHOW {name}')}" for name in names)
    facts: dict[str, object] = {
        "database": f"embedded PostgreSQL, {shown}; pools of {POOL_SIZE}",
        "load": f"{generator_name}; batches and clients: asyncio; {options.customers} customers, 5 services",
        "rounds": f"{options.rounds}, interleaved, of about {options.seconds} s each",
    }
    return facts | ({"left out": "; ".join(stage.left_out)} if stage.left_out else {})


if __name__ == "__main__":
    main()
