"""The lines of a statement: sums by service and price, credits apart."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple, TypeAlias

import asyncpg

from billing_client.contract.decimals import EXACT, MAX_DIGITS, multiply, plain
from billing_client.contract.statements.structs import StatementLine
from billing_service.ledger.loop_slices import in_slices, sorted_in_slices


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


async def add_rows(lines: Lines, rows: Sequence[asyncpg.Record]) -> None:
    """Add rows of service, price, is_credit, records and units."""
    async for part in in_slices(rows):
        for row in part:
            key = LineKey(row["service"], row["price_per_unit"], row["is_credit"])
            add_line(lines, key, row["records"], row["units"])


async def add_arrays(lines: Lines, rows: Iterable[asyncpg.Record], part: str = "line_") -> None:
    """Add the lines that rows hold as arrays: all of them, or with `part` `late_` what was late of them."""
    columns = ("services", "prices", "line_units", f"{part}records", f"{part}units")
    found = [line for row in rows for line in zip(*(row[column] for column in columns), strict=True)]
    async for some in in_slices(found):
        for service, price, all_units, records, units in some:
            if records:
                add_line(lines, LineKey(service, price, all_units.startswith("-")), records, units)


async def add_records(lines: Lines, rows: Sequence[asyncpg.Record]) -> None:
    """Add rows that are records."""
    async for part in in_slices(rows):
        for row in part:
            units = row["units_consumed"]
            add_line(lines, LineKey(row["service"], row["price_per_unit"], units.startswith("-")), 1, units)


async def statement_lines(lines: Lines, *, credits_: bool) -> list[StatementLine[str]]:
    """The lines of credits, or those of the rest, by service, then price."""
    chosen = [key for key in lines if key.is_credit == credits_]
    made: list[StatementLine[str]] = []
    async for part in in_slices(await sorted_in_slices(chosen, _place)):
        made += [_line(key, *lines[key]) for key in part]
    return made


def _place(key: LineKey) -> str:
    """Sorts by service and price. A line feed, which no service contains, sorts below all that one may contain."""
    whole, _, fraction = key.price.partition(".")
    return f"{key.service}\n{whole.zfill(MAX_DIGITS)}.{fraction}"


def _line(key: LineKey, records: int, sum_: Decimal) -> StatementLine[str]:
    units = plain(sum_)
    amount = multiply(units, key.price)
    return StatementLine(service=key.service, price_per_unit=key.price, records=records, units=units, amount=amount)
