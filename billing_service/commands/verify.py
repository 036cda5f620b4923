"""`billing-service verify`: recomputes what the database holds, and names what differs."""

import asyncio
import sys

import click

from billing_service.database.embedded import named_or_embedded
from billing_service.database.pool import unavailable_if_away
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import load_settings


@click.command(name="verify")
def command() -> None:
    """Recompute request ids, sums, content hashes and digests from the records; exit 1 and name what differs."""
    given = load_settings()
    with named_or_embedded(given.of_reads) as (settings, where):
        if given.read_database_url is not None:
            where = "the database that BILLING_READ_DATABASE_URL names"
        with unavailable_if_away():
            report = asyncio.run(verify_ledger(settings))
        for difference in report.differences:
            click.echo(difference)
        checked = f"{report.records} records, {report.rollups} sums, {report.pieces} pieces"
        click.echo(f"{where}: {checked}, {report.statements} statements, {len(report.differences)} differences")
    if report.differences:
        sys.exit(1)
