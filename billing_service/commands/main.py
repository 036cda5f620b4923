"""`billing-service`: the group of subcommands, and the one place where errors become lines for the operator.

A subcommand's module is imported when the subcommand runs, so that `--help` and `keys` start without the HTTP server.
"""

import signal
import sys
from importlib import import_module

import click

from billing_client import __version__

# The name of each module in this package that holds a subcommand, with the summary that `--help` shows.
COMMANDS = {
    "dimensions": "Say which dimensions are summed up with the records.",
    "distribute": "Distribute the database over the nodes of a Citus cluster, by customer.",
    "keys": "Create, list and revoke API keys.",
    "migrate": "Bring the database's schema up to date.",
    "openapi": "Print the OpenAPI document.",
    "serve": "Run the service.",
    "verify": "Recompute request ids, sums, content hashes and digests from the records.",
}


class _LazyGroup(click.Group):
    """A group whose subcommands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"billing_service.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries above: click would import every subcommand to ask for its own."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="billing-service")
def cli() -> None:
    """Record billable usage once."""


def main() -> None:
    """Run the command. An error that an operator can mend ends it with one line and exit code 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        cli()
    except Exception as error:
        line: str | None = import_module("billing_service.commands.errors").explain(error)
        if line is None:
            raise
        sys.exit(f"billing-service: {line}")


def _stop(number: int, _: object) -> None:
    """End in order. While uvicorn serves, it takes the signals itself, and raises them again once it has stopped.

    What serves has done its work then. What another command was told to do is not done, and its exit code says so.
    """
    context = click.get_current_context(silent=True)
    raise SystemExit(0 if context is not None and context.info_name == "serve" else 128 + number)
