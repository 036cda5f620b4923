"""The lines of a statement: sums by service and price, credits apart."""

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple, TypeAlias

import asyncpg

from billing_client.contract.decimals import EXACT, multiply, plain
from billing_client.contract.statements.structs import StatementLine


class LineKey(NamedTuple):
    """What a line is of: a service, a price, and whether its records are credits, which have negative units."""

    service: str
    price: str
    is_credit: bool


Lines: TypeAlias = dict[LineKey, tuple[int, Decimal]]
"""How many records each line has, and their units."""


def add_line(lines: Lines, key: LineKey, records: int, units: str) -> None:
    """Add records of a line to others."""
    before, sum_ = lines.get(key, (0, Decimal(0)))
    lines[key] = before + records, EXACT.add(sum_, Decimal(units))


def add_rows(lines: Lines, rows: Iterable[asyncpg.Record]) -> None:
    """Add rows of service, price, is_credit, records and units."""
    for row in rows:
        add_line(lines, LineKey(row["service"], row["price_per_unit"], row["is_credit"]), row["records"], row["units"])


def add_arrays(lines: Lines, row: asyncpg.Record, part: str = "line_") -> None:
    """Add the lines that a row holds as arrays: all of them, or with `part` `late_` what was late of them."""
    columns = row["services"], row["prices"], row["line_units"], row[f"{part}records"], row[f"{part}units"]
    for service, price, all_units, records, units in zip(*columns, strict=True):
        if records:
            add_line(lines, LineKey(service, price, all_units.startswith("-")), records, units)


def statement_lines(lines: Lines, *, credits_: bool) -> list[StatementLine[str]]:
    """The lines of credits, or those of the rest, by service, then price."""
    keys = sorted(
        (key for key in lines if key.is_credit == credits_), key=lambda key: (key.service, Decimal(key.price))
    )
    return [
        StatementLine(
            service=key.service,
            price_per_unit=key.price,
            records=lines[key][0],
            units=(units := plain(lines[key][1])),
            amount=multiply(units, key.price),
        )
        for key in keys
    ]
