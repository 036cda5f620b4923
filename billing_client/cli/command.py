"""The command `billing`, put together from its subcommands."""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple

import click

from billing_client import __version__
from billing_client.cli.exit_codes import MEANINGS

_CODES = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


class _Subcommand(NamedTuple):
    module: str
    name: str
    help: str


_SUBCOMMANDS = {
    "record": _Subcommand("records", "record", "Record one use, once."),
    "import": _Subcommand("imports.command", "import_", "Record each line of FILE, once; - is standard input."),
    "customers": _Subcommand("customers", "customers", "List, add and rename customers."),
    "usage": _Subcommand("records", "usage", "List, show and void the records of a customer."),
    "summary": _Subcommand("summaries", "summary", "What usage adds up to, exact, less what was voided."),
    "refusals": _Subcommand("refusals", "refusals", "What was not recorded, and why, latest first."),
    "statement": _Subcommand("statements", "statement", "What a customer owes for a month."),
    "export": _Subcommand("exports", "export", "Write all records, voided ones too, as the service keeps them."),
    "spool": _Subcommand("spools", "spool", "Inspect a recorder's file, deliver it, retry what was refused."),
    "completion": _Subcommand("completion", "completion", "Complete commands and options in your shell."),
}


class _LazyGroup(click.Group):
    """Imports a subcommand when it runs. `billing --help` imports none, so it starts without aiohttp and sqlite3."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click.Group."""
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click.Group."""
        if cmd_name not in _SUBCOMMANDS:
            return None
        subcommand = _SUBCOMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"billing_client.cli.{subcommand.module}"), subcommand.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Group."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in _SUBCOMMANDS.items()])


@click.group(cls=_LazyGroup, epilog=f"\b\nExit codes:\n{_CODES}", context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="billing")
def billing() -> None:
    """Record billable usage once, and read what it adds up to.

    The service is the one of --base-url or BILLING_BASE_URL; the API key comes from BILLING_API_KEY or a file, never
    from the command line, where others could read it. Each command has a --help with examples.
    """


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape what the terminal's encoding cannot show
    billing(prog_name="billing")
