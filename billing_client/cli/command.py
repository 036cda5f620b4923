"""The command `billing`, put together."""

import sys
from io import TextIOWrapper

import click

from billing_client import __version__
from billing_client.cli.exports import export
from billing_client.cli.failures import MEANINGS
from billing_client.cli.imports import import_
from billing_client.cli.records import record
from billing_client.cli.spools import spool
from billing_client.cli.summaries import summary

_CODES = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


class _Group(click.Group):
    """Commands in the order in which they are added."""

    def list_commands(self, _: click.Context) -> list[str]:
        """See click.Group."""
        return list(self.commands)


@click.group(cls=_Group, epilog=f"\b\nExit codes:\n{_CODES}", context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="billing")
def billing() -> None:
    """Record billable usage once, and read what it adds up to.

    The service is the one of --base-url or BILLING_BASE_URL; the API key comes from BILLING_API_KEY or a file, never
    from the command line, where others could read it. Each command has a --help with examples.
    """


billing.add_command(record)
billing.add_command(import_)
billing.add_command(summary)
billing.add_command(export)
billing.add_command(spool)


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no fault
    billing(prog_name="billing")
