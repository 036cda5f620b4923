"""How a command fails: one line on standard error, and an exit code."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from billing_client import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    CustomerExistsError,
    CustomerNotFoundError,
    DuplicateRecordError,
    EventIdConflictError,
    PayloadTooLargeError,
    PermissionDeniedError,
    SpoolError,
    StatementNotFoundError,
    UsageNotFoundError,
    ValidationError,
)
from billing_client.cli.exit_codes import ExitCode
from billing_client.cli.output import to_json
from billing_client.contract.wire import printable

_REFUSALS = (
    ValidationError,
    CustomerNotFoundError,
    CustomerExistsError,
    EventIdConflictError,
    PayloadTooLargeError,
    UsageNotFoundError,
    StatementNotFoundError,
)


class CommandError(Exception):
    """A failure: one line for people, facts for scripts, and an exit code."""

    def __init__(self, code: ExitCode, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts or {}

    def show(self, as_json: bool) -> None:
        """Print it to standard error, as a JSON object with `--json`."""
        line = f"billing: {printable(str(self))}"
        if as_json:
            error = {"detail": str(self), "exitCode": int(self.code), **self.facts}
            line = to_json({"error": error}).decode()
        click.echo(line, err=True)


class Command(click.Command):
    """A command that ends with one line and an exit code, whatever fails."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            with translated_failures(ctx.params.get("base_url")):
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
        except CommandError as error:
            error.show(ctx.params.get("as_json", False))
            raise click.exceptions.Exit(error.code) from error


@contextmanager
def translated_failures(base_url: str | None) -> Iterator[None]:
    """Turn every expected failure into a CommandError."""
    try:
        yield
    except BillingError as error:
        raise failure_from(error, base_url) from error
    except KeyboardInterrupt as error:
        raise CommandError(ExitCode.INTERRUPTED, "stopped") from error
    except BrokenPipeError as error:
        _discard_output()
        raise click.exceptions.Exit(ExitCode.PIPE_CLOSED) from error
    except OSError as error:
        _discard_output()
        raise CommandError(ExitCode.USAGE, str(error)) from error


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which extra is missing, where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run: pip install 'billing-system[{name}]'"
        raise CommandError(ExitCode.USAGE, message) from error


@contextmanager
def repeatable(again: str) -> Iterator[None]:
    """Say how to go on where the answer to a call that writes was lost."""
    try:
        yield
    except BillingError as error:
        if error.outcome != "unknown":
            raise
        raise CommandError(ExitCode.UNKNOWN, f"{error.detail.rstrip('.')}. {again}", {"outcome": "unknown"}) from error


def _discard_output() -> None:
    """Discard buffered output that cannot be written; else the interpreter would complain when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def failure_from(error: BillingError, base_url: str | None = None, again: str | None = None) -> CommandError:
    """The failure that an error of the client is. `again` says how to go on, if not under the same key."""
    code = _code_of(error)
    facts: dict[str, Any] = {
        "code": error.code,
        "outcome": error.outcome,
        "requestId": error.request_id,
        "idempotencyKey": error.idempotency_key,
    }
    message = error.detail.rstrip(".")
    match error:
        case DuplicateRecordError():
            message = f"duplicate: it was recorded before, at {error.existing.recorded_at.isoformat()}. {error.detail}"
            facts["existing"] = error.existing
        case EventIdConflictError():
            facts |= {"existing": error.existing, "conflicts": error.conflicts}
            changes = (f"{c.field} was {c.recorded or 'none'}, now {c.submitted or 'none'}" for c in error.conflicts)
            message = f"conflict: {'; '.join(changes)}. {error.detail}"
        case ValidationError():
            facts["errors"] = error.errors
    if code is ExitCode.UNREACHABLE:
        message = f"{base_url}: {message}. Is this the address of a billing service that runs? (--base-url)"
    elif code is ExitCode.UNKNOWN and again is None:
        again = f"It may be recorded: run it again, with --idempotency-key {error.idempotency_key}"
    if again is not None:
        message = f"{message.rstrip('.')}. {again}"
    return CommandError(code, message, {name: value for name, value in facts.items() if value is not None})


def _code_of(error: BillingError) -> ExitCode:
    if error.outcome == "unknown" and error.idempotency_key is not None:  # a call without a key is a read
        return ExitCode.UNKNOWN
    match error:
        case ConfigurationError() | SpoolError():
            return ExitCode.USAGE
        case DuplicateRecordError():
            return ExitCode.DUPLICATE
        case AuthenticationError() | PermissionDeniedError():
            return ExitCode.DENIED
    return ExitCode.REFUSED if isinstance(error, _REFUSALS) else ExitCode.UNREACHABLE
