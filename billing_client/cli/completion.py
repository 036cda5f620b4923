"""`billing completion`: completion of commands and options in a shell."""

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.failures import Command, CommandError

_SHELLS = ("bash", "zsh", "fish")
_FISH = ".config/fish/completions/billing.fish"  # fish reads it by itself
_SCRIPT = ".local/share/billing/completion.{shell}"


def _shell_of(_: click.Context, param: click.Parameter, value: str | None) -> str:
    name = Path(value or "").name
    if name not in _SHELLS:
        said = f"{name!r} is none of" if name else "your shell is not known; it must be one of"
        raise click.BadParameter(f"{said} {', '.join(_SHELLS)}.", param=param)
    return name


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  billing completion --install
  billing completion --shell zsh > ~/.zfunc/_billing""",
)
@click.option(
    "--shell", envvar="SHELL", callback=_shell_of, metavar="SHELL", help="bash, zsh or fish.  [default: yours]"
)
@click.option("--install", is_flag=True, help="Install it for your user.")
@click.pass_context
def completion(ctx: click.Context, shell: str, install: bool) -> None:
    """Complete commands and options in your shell.

    Without --install it prints the script that does so.
    """
    found = get_completion_class(shell)
    root = ctx.find_root()
    if found is None:
        raise CommandError(ExitCode.USAGE, f"completion for {shell} is not known to click")
    script = found(root.command, {}, "billing", "_BILLING_COMPLETE").source()
    if not install:
        click.echo(script)
        return
    for file in _install(shell, script, Path.home()):
        click.echo(f"wrote {file}")
    click.echo("Open a new shell.")


def _install(shell: str, script: str, home: Path) -> list[Path]:
    """Write the script where the shell reads it, however often this is run; what was written."""
    path = home / (_FISH if shell == "fish" else _SCRIPT.format(shell=shell))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, "utf-8")
    if shell == "fish":
        return [path]
    start = home / (".bashrc" if shell == "bash" else ".zshrc")
    line = f'. "{path}"  # completion of billing\n'
    before = start.read_text("utf-8") if start.exists() else ""
    if line in before:
        return [path]
    gap = "\n" if before and not before.endswith("\n") else ""
    compinit = "autoload -Uz compinit && compinit\n" if shell == "zsh" and "compinit" not in before else ""
    with start.open("a", encoding="utf-8") as file:
        file.write(gap + compinit + line)
    return [path, start]
