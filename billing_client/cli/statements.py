"""`billing statement`: a month as it stands, issued, listed, and checked without the service."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from click import echo

from billing_client import Statement, StatementCheck, UsageRecord, verify_statement
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError, needs_extra
from billing_client.cli.options import Connection, connection_options, json_option
from billing_client.cli.output import print_json
from billing_client.cli.tables import number_column, print_facts, print_table, text_column
from billing_client.contract.decimals import plain
from billing_client.contract.wire import printable


@click.group()
def statement() -> None:
    """What a customer owes for a month."""


_month_option = click.option("--month", required=True, metavar="MONTH", help="The month, e.g. 2026-11.")
_zone_option = click.option(
    "--timezone", default="UTC", metavar="ZONE", show_default=True, help="IANA zone of the month."
)
_record = msgspec.json.Decoder(UsageRecord).decode


@statement.command(
    cls=Command,
    epilog="""\b
Examples:
  billing statement show --customer acme --month 2026-11
  billing statement show --customer acme --month 2026-11 --timezone Europe/Berlin --json""",
)
@click.option("--customer", "customer_id", required=True, metavar="ID", help="Whose month.")
@_month_option
@_zone_option
@click.option("--since", metavar="DIGEST", help="Say too what changed since the statement with this digest.")
@connection_options(timeout=10)
@json_option
def show(connection: Connection, customer_id: str, month: str, timezone: str, since: str | None, as_json: bool) -> None:
    """The month as it stands: a line for each service and price, exact, and the total, rounded once."""
    found = asyncio.run(_show(connection, customer_id, month, timezone, since))
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _show(connection: Connection, customer_id: str, month: str, timezone: str, since: str | None) -> Statement:
    async with connection.client() as client:
        return await client.statement(customer_id=customer_id, month=month, timezone=timezone, since=since)


def _print(found: Statement) -> None:
    echo(printable(f"{found.customer_name} ({found.customer_id}), {found.month}, {found.timezone}"))
    rows = [
        (line.service, str(line.records), plain(line.units), plain(line.price_per_unit), plain(line.amount))
        for line in found.lines
    ]
    rows += [
        (
            f"{line.service} (credit)",
            str(line.records),
            plain(line.units),
            plain(line.price_per_unit),
            plain(line.amount),
        )
        for line in found.credits
    ]
    rows.append(("total", str(found.total.records), "", "", plain(found.total.amount)))
    names = ("records", "units", "price", f"amount ({found.currency})")
    print_table([text_column("service"), *map(number_column, names)], rows)
    facts = {"to pay": f"{found.total.rounded:f} {found.currency}", "status": _status(found)}
    if found.late:
        facts["recorded late"] = f"{sum(line.records for line in found.late)} records, in the lines above"
    if found.voided.total.records:
        facts["voided"] = f"{found.voided.total.records} records of {plain(found.voided.total.amount)}, in no line"
    if found.changes is not None:
        facts["changed since"] = f"{found.changes.since}: to settle {found.changes.total.difference.rounded:f}"
    print_facts(facts | {"digest": found.digest})


def _status(found: Statement) -> str:
    if found.status == "issued":
        return f"issued, number {found.number}" + ("" if found.signature is None else ", signed")
    return "provisional" + (f"; number {found.previous.number} was issued before" if found.previous else "")


@statement.command(
    cls=Command,
    epilog="""\b
Examples:
  billing statement issue --month 2026-11
  billing statement issue --month 2026-11 --customer acme --json""",
)
@click.option("--customer", "customer_id", metavar="ID", help="One customer.  [default: each with usage in the month]")
@_month_option
@_zone_option
@connection_options(timeout=60)
@json_option
def issue(connection: Connection, customer_id: str | None, month: str, timezone: str, as_json: bool) -> None:
    """Issue the statement of a month that is over, or those of all customers.

    What has not changed since it was issued is left as it is. So a command that was stopped is run again. If the
    statement of a customer cannot be issued, the others are, and the exit code is 1.
    """
    asyncio.run(
        _issue_all(connection, month, timezone, as_json)
        if customer_id is None
        else _issue(connection, customer_id, month, timezone, as_json)
    )


async def _issue(connection: Connection, customer_id: str, month: str, timezone: str, as_json: bool) -> None:
    async with connection.client() as client:
        found = await client.issue_statement(customer_id=customer_id, month=month, timezone=timezone)
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _issue_all(connection: Connection, month: str, timezone: str, as_json: bool) -> None:
    issued = unchanged = failed = 0
    async with connection.client() as client:
        async for part in client.issue_statements(month=month, timezone=timezone):
            issued, unchanged = issued + len(part.issued), unchanged + part.unchanged
            for each in part.issued:
                if as_json:
                    print_json(each)
                else:
                    echo(printable(f"{each.customer_id}: number {each.number}, {each.total.rounded:f}"))
            failed += len(part.failed)
            for failure in part.failed:
                echo(printable(f"{failure.customer_id}: not issued: {failure.code}: {failure.detail}"), err=True)
            if part.preparing is not None:
                progress = f"{part.preparing.prepared} of {part.preparing.records} records"
                echo(f"preparing a large month: {progress}", err=True)
            elif part.next_cursor is not None:
                echo(f"{issued} issued, {unchanged} unchanged so far", err=True)
    if not as_json:
        echo(f"{issued} issued, {unchanged} unchanged since they were issued" + (f", {failed} failed" * (failed > 0)))
    if failed:
        raise CommandError(ExitCode.REFUSED, "the statements of some customers could not be issued")


@statement.command(
    name="list",
    cls=Command,
    epilog="""\b
Examples:
  billing statement list --month 2026-11
  billing statement list --customer acme""",
)
@click.option("--customer", "customer_id", metavar="ID", help="What was issued to this customer.")
@click.option("--month", metavar="MONTH", help="All customers with usage in this month, e.g. 2026-11.")
@_zone_option
@connection_options(timeout=10)
@json_option
def list_command(
    connection: Connection, customer_id: str | None, month: str | None, timezone: str, as_json: bool
) -> None:
    """The statements that were issued to a customer; or all customers' month with total and status."""
    if (customer_id is None) == (month is None):
        raise click.UsageError("Give either --customer or --month.")
    rows = asyncio.run(_list(connection, customer_id, month, timezone))
    if as_json:
        for row in rows:
            print_json(row)
    elif month is None:
        names = ("number", "month", "timezone", "issued", "records", "to pay", "digest")
        print_table(
            [*map(text_column, names)],
            [
                (
                    *(str(row.number), row.month, row.timezone, row.issued_at.isoformat()),
                    *(str(row.total.records), f"{row.total.rounded:f}", row.digest),
                )
                for row in rows
            ],
        )
    else:
        columns = [*map(text_column, ("customer", "status", "number")), *map(number_column, ("records", "to pay"))]
        print_table(
            [*columns, number_column("not issued yet")],
            [
                (
                    *(row.customer_id, row.status, "" if row.number is None else str(row.number)),
                    *(str(row.total.records), f"{row.total.rounded:f}"),
                    "" if row.not_issued is None else plain(row.not_issued.amount),
                )
                for row in rows
            ],
        )


async def _list(connection: Connection, customer_id: str | None, month: str | None, timezone: str) -> list[Any]:
    async with connection.client() as client:
        if customer_id is not None:
            return [each async for each in client.issued_statements(customer_id=customer_id, page_size=1_000)]
        return [each async for each in client.statement_overview(month=month or "", timezone=timezone)]


@statement.command(
    cls=Command,
    epilog="""\b
Examples:
  billing statement verify statement.json
  billing statement verify statement.json --export usage.ndjson --keys keys.json

\b
The files come from the service:
  /customers/ID/statements/NUMBER, /usage/export?customerId=ID, /.well-known/jwks.json""",
)
@click.argument("file", type=click.File("rb"))
@click.option("--export", "export", type=click.File("rb"), help="An export as NDJSON that holds the month.")
@click.option("--keys", "keys", type=click.File("rb"), help="The public keys, as a JSON Web Key Set.")
@json_option
def verify(file: IO[bytes], export: IO[bytes] | None, keys: IO[bytes] | None, as_json: bool) -> None:
    """Check a statement as JSON without the service, and exit with 1 if anything is wrong.

    Its arithmetic; with --keys its signature; with --export that the records give its lines and its digest.
    """
    check = _verify(file, export, keys)
    if as_json:
        print_json(
            {
                "digest": check.statement.digest,
                "signedBy": check.signed_by,
                "records": check.records,
                "faults": check.faults,
            }
        )
    else:
        _print_check(check, keys is not None)
    if check.faults:
        raise CommandError(ExitCode.REFUSED, f"{Path(file.name).name} does not hold: {len(check.faults)} faults")


def _verify(file: IO[bytes], export: IO[bytes] | None, keys: IO[bytes] | None) -> StatementCheck:
    records = None if export is None else _records(export)
    key_set = None
    if keys is not None:
        with _refused(keys):
            key_set = json.loads(keys.read())
    with needs_extra("signatures"), _refused(file):
        return verify_statement(file.read(), records=records, key_set=key_set)


def _records(export: IO[bytes]) -> Iterator[UsageRecord]:
    for line in export:
        if line.strip():
            with _refused(export):
                record = _record(line)
            yield record


@contextmanager
def _refused(file: IO[bytes]) -> Iterator[None]:
    """Raise CommandError, which names the file, if the block cannot read what is in it."""
    try:
        yield
    except ValueError as error:
        message = f"{Path(file.name).name} is not what it must be: {error}"
        raise CommandError(ExitCode.USAGE, message) from error


def _print_check(check: StatementCheck, with_keys: bool) -> None:
    signature = "not checked: give --keys"
    if check.statement.signature is None:
        signature = "none: the service had no key"
    elif with_keys:
        signature = "does not hold" if check.signed_by is None else f"holds, by the key {check.signed_by}"
    counted = "not compared: give --export" if check.records is None else f"{check.records} of the export count"
    facts = {"signature": signature, "records": counted, "digest": check.statement.digest}
    print_facts(facts | {"faults": str(len(check.faults))})
    for fault in check.faults:
        echo(printable(fault))
