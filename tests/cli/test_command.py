"""`billing` itself: its help and its exit codes."""

import click
import pytest

import billing_client
from billing_client.cli import command
from billing_client.cli.exit_codes import MEANINGS, ExitCode
from tests.cli import billing, billing_process
from tests.examples import ROOT


def test_help_names_each_command_and_each_exit_code() -> None:
    shown = billing_process("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    commands = [line.split()[0] for line in shown.stdout.partition("Commands:\n")[2].split("\n\n")[0].splitlines()]
    assert commands == [
        "record",
        "import",
        "customers",
        "usage",
        "summary",
        "refusals",
        "statement",
        "export",
        "spool",
        "completion",
    ]
    for code in ExitCode:
        assert f"{int(code):>3}  {MEANINGS[code]}" in shown.stdout
    assert not [line for line in shown.stdout.splitlines() if len(line) > 110]


def test_help_describes_each_command_as_the_command_does() -> None:
    context = click.Context(command.billing)
    shown = " ".join(billing("--help").stdout.split())
    for name in command.billing.list_commands(context):
        subcommand = command.billing.get_command(context, name)
        assert subcommand is not None
        assert f" {name} {subcommand.get_short_help_str(100)} " in shown


def test_the_documentation_says_the_same_of_exit_codes() -> None:
    documented = (ROOT / "docs/guides/command-line.md").read_text("utf-8").partition("| exit code | |\n|---|---|\n")[2]
    rows = [f"| {int(code)} | {MEANINGS[code]} |" for code in ExitCode]
    assert documented.partition("\n\n")[0].splitlines() == rows


def test_version() -> None:
    assert billing("--version").stdout == f"billing, version {billing_client.__version__}\n"


@pytest.mark.parametrize("command", ["record", "import", "summary", "refusals", "export"])
def test_each_command_has_help_with_an_example(command: str) -> None:
    shown = billing(command, "--help")
    assert shown.returncode == 0
    assert f"\n    billing {command} " in shown.stdout
    assert "BILLING_BASE_URL" in shown.stdout
    assert "--json" in shown.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("customers", "list"),
        ("customers", "add"),
        ("customers", "rename"),
        ("usage", "list"),
        ("usage", "show"),
        ("usage", "void"),
        ("statement", "show"),
    ],
)
def test_each_command_of_a_group_has_help_with_an_example(command: tuple[str, str]) -> None:
    shown = billing(*command, "--help")
    assert shown.returncode == 0
    assert (
        f"\n    billing {' '.join(command)} " in shown.stdout or f"\n    billing {' '.join(command)}\n" in shown.stdout
    )
    assert "BILLING_BASE_URL" in shown.stdout
    assert "--json" in shown.stdout
    assert f"\n  {command[1]} " in billing(command[0], "--help").stdout


def test_a_time_says_what_it_takes() -> None:
    shown = " ".join(billing("record", "--help").stdout.split())
    assert "--occurred-at TIME When: a time with an offset, e.g. 2026-11-01T08:00:00Z." in shown


@pytest.mark.parametrize("command", ["status", "flush", "redrive"])
def test_each_command_of_spools_has_help_with_an_example(command: str) -> None:
    shown = billing("spool", command, "--help")
    assert shown.returncode == 0
    assert f"\n    billing spool {command} usage.db" in shown.stdout
    assert "--json" in shown.stdout
    assert f"\n  {command} " in billing("spool", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recrod"], "No such command 'recrod'"),
        (["record", "--customer", "acme"], "Missing option '--service'"),
        (["summary", "--timeout", "0"], "0.0 is not in the range x>0"),
        (["summary", "--timeout", "nan"], "nan"),
        (["summary", "--api-key", "secret"], "No such option"),
        (["summary", "--from", "yesterday"], "'yesterday' is no time such as 2026-11-01"),
        (["summary", "--from", "2026-11-01", "--timezone", "Mars/Olympus"], "'Mars/Olympus' is no IANA time zone"),
        (["summary", "--from", "2026-11-01", "--timezone", "../etc/passwd"], "is no IANA time zone"),
        (["summary", "--group-by", "service,week"], "'week' is none of service, hour, day, month"),
        (["export", "--format", "xml"], "'xml' is not one of 'ndjson', 'csv', 'parquet'"),
    ],
)
def test_what_cannot_be_understood_exits_with_2(arguments: list[str], words: str) -> None:
    refused = billing(*arguments)
    assert refused.returncode == ExitCode.USAGE, refused
    assert words in refused.stderr
