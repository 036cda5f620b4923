"""`billing summary`: what usage adds up to."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from functools import reduce

import click
from msgspec import Struct
from rich.table import Column

from billing_client import BillingSystemClient, CustomerSummary
from billing_client._reads import GroupBy
from billing_client.cli.failures import Command
from billing_client.cli.options import Connection, connection_options, filter_option, in_zone, json_option, span_options
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_table, text_column, whole_column
from billing_client.contract.decimals import EXACT, plain
from billing_client.contract.query_parameters import DIMENSION
from billing_client.contract.wire import CreditTotal, SummaryGroup, SummaryTotal

MEMBERS = ("service", "hour", "day", "month")


class _Asked(Struct, frozen=True):
    start: datetime | None
    end: datetime | None
    group_by: tuple[GroupBy, ...]
    timezone: str
    dimensions: dict[str, str]


def _members(_: click.Context, param: click.Parameter, value: str) -> tuple[GroupBy, ...]:
    members = tuple(member.strip() for member in value.split(",")) if value else ()
    if unknown := [member for member in members if member not in MEMBERS and not member.startswith(DIMENSION)]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(MEMBERS)} or dimension.NAME.", param=param)
    return members


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  billing summary
  billing summary --customer acme --from 2026-11-01 --to 2026-12-01 --group-by service,day
  billing summary --customer acme --group-by dimension.model --dimension region=eu
  billing summary --customer acme --group-by month --timezone Europe/Berlin --json""",
)
@click.option("--customer", "customer_id", metavar="ID", help="One customer.  [default: each]")
@span_options
@click.option(
    "--group-by",
    callback=_members,
    default="",
    metavar="MEMBERS",
    help="Any of service,hour,day,month and two of dimension.NAME, with commas.",
)
@filter_option
@click.option("--timezone", default="UTC", metavar="ZONE", show_default=True, help="IANA zone of hours, days, months.")
@connection_options(timeout=10)
@json_option
def summary(
    connection: Connection,
    customer_id: str | None,
    start: datetime | None,
    end: datetime | None,
    group_by: tuple[GroupBy, ...],
    timezone: str,
    dimensions: dict[str, str],
    as_json: bool,
) -> None:
    """What usage adds up to, exact, less what was voided.

    With --json an object; without --customer one for each customer, a line each.
    """
    asked = _Asked(in_zone(start, timezone), in_zone(end, timezone), group_by, timezone, dimensions)
    asyncio.run(_summarize(connection, customer_id, asked, as_json))


async def _summarize(connection: Connection, customer_id: str | None, asked: _Asked, as_json: bool) -> None:
    async with connection.client() as client:
        if customer_id is not None:
            one = await client.summary(
                customer_id=customer_id,
                start=asked.start,
                end=asked.end,
                group_by=asked.group_by,
                dimensions=asked.dimensions,
                timezone=asked.timezone,
            )
            if as_json:
                print_json(one)
            else:
                _print(asked.group_by, [], [(customer_id, one.groups, one.total)], one.total, one.currency)
        elif as_json:
            async for customer in _each(client, asked):
                print_json(customer)
        else:
            rows = [(each.customer_id, each.groups, each.total) async for each in _each(client, asked)]
            _print(asked.group_by, [text_column("customer")], rows, _sum([total for *_, total in rows]), "")


async def _each(client: BillingSystemClient, asked: _Asked) -> AsyncIterator[CustomerSummary]:
    summaries = client.summaries(
        start=asked.start,
        end=asked.end,
        group_by=asked.group_by,
        dimensions=asked.dimensions,
        timezone=asked.timezone,
        page_size=1_000,
    )
    async with aclosing(summaries) as each:
        async for customer in each:
            yield customer


_Row = tuple[str, list[SummaryGroup[Decimal]], SummaryTotal[Decimal]]


def _print(
    members: tuple[GroupBy, ...],
    customer: list[Column],
    rows: list[_Row],
    total: SummaryTotal[Decimal],
    currency: str,
) -> None:
    lines: list[list[str]] = []
    figures = _figures_with_credits if total.credits else _figures
    for customer_id, groups, sums in rows:
        first = [customer_id] if customer else []
        if members:
            lines += [[*first, *(_label(group, member) for member in members), *figures(group)] for group in groups]
        elif customer:
            lines.append([*first, *figures(sums)])
    columns = [
        *customer,
        *(whole_column(each) if each in ("hour", "day", "month") else text_column(each) for each in members),
    ] or [text_column("")]
    lines.append(["total", *[""] * (len(columns) - 1), *figures(total)])
    amount = f"amount ({currency})" if currency else "amount"
    apart = ("usage", "credits") if total.credits else ()
    print_table([*columns, *map(number_column, ("records", "units", *apart, amount))], lines)


def _label(group: SummaryGroup[Decimal], member: GroupBy) -> str:
    """What a group is of; `-` if it is of the records without a dimension."""
    if member.startswith(DIMENSION):
        return (group.dimensions or {}).get(member.removeprefix(DIMENSION)) or "-"
    return str(getattr(group, member))


_Sums = SummaryGroup[Decimal] | SummaryTotal[Decimal]


def _figures(sums: _Sums) -> tuple[str, ...]:
    """Units of several services make no sum."""
    return str(sums.records), "-" if sums.units is None else plain(sums.units), plain(sums.amount)


def _figures_with_credits(sums: _Sums) -> tuple[str, ...]:
    """As `_figures`, with the amount of usage and that of credits before their sum."""
    *others, amount = _figures(sums)
    credit = sums.credits.amount if sums.credits else Decimal(0)
    return *others, plain(EXACT.subtract(sums.amount, credit)), plain(credit), amount


def _sum(totals: list[SummaryTotal[Decimal]]) -> SummaryTotal[Decimal]:
    """The total of all customers. It has units if only one has usage: which services the others used is not known."""
    used = [each for each in totals if each.records]
    credited = [each.credits for each in used if each.credits]
    credits_ = CreditTotal(
        records=sum(each.records for each in credited), units=None, amount=_exact_sum(each.amount for each in credited)
    )
    return SummaryTotal(
        records=sum(each.records for each in used),
        units=used[0].units if len(used) == 1 else None if used else Decimal(0),
        amount=_exact_sum(each.amount for each in used),
        credits=credits_ if credited else None,
    )


def _exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, numbers, Decimal(0))
