"""`billing-service keys`: creates, lists and revokes API keys."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, TypeVar

import click
import msgspec

from billing_client.contract.wire import Id, readable
from billing_service.database.embedded import named_or_embedded
from billing_service.database.migrations import check_schema
from billing_service.database.pool import Connection, connected, unavailable_if_away
from billing_service.ledger.api_keys import SCOPES, Key, KeyName, NewKey, Scope, create_key, list_keys, revoke_key
from billing_service.settings import load_settings
from billing_service.telemetry import audit

if sys.platform != "win32":
    import pwd

T = TypeVar("T")
_DAYS = re.compile(r"([0-9]{1,5})d")
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)  # the database driver stores datetime.max as infinity
_KEY_ID = re.compile(r"(?:bk_)?([0-9a-f]{16})")
_HEADINGS = ("key", "state", "name", "scopes", "customer", "created", "expires", "last used")


@click.group(name="keys")
def command() -> None:
    """Create, list and revoke API keys."""


def _text(type_: Any) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback that accepts the text that `type_` accepts."""

    def check(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        try:
            return None if value is None else msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            raise click.BadParameter(readable(error)) from error

    return check


def _expiry(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """A time in the future: RFC 3339 (UTC if it has no offset), or a number of days from now."""
    if value is None:
        return None
    now = datetime.now(UTC)
    try:
        days = _DAYS.fullmatch(value)
        expires_at = now + timedelta(days=int(days[1])) if days else datetime.fromisoformat(value)
        expires_at = expires_at.astimezone(UTC) if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter("must be a time such as 2027-01-31T00:00:00Z, or days such as 90d") from error
    if not now < expires_at < _LATEST:
        raise click.BadParameter("must lie ahead, before the year 9999")
    return expires_at


_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@command.command()
@click.option("--name", required=True, callback=_text(KeyName), help="What it is for; `list` shows it.")
@click.option(
    "--scope", "scopes", required=True, multiple=True, type=click.Choice(SCOPES), help="What it permits; repeatable."
)
@click.option("--customer", callback=_text(Id), help="The one customer it reaches, which must exist; all if not given.")
@click.option("--expires", callback=_expiry, help="When it ends: 2027-01-31T00:00:00Z, or 90d.")
@_json_option
def create(name: str, scopes: tuple[Scope, ...], customer: str | None, expires: datetime | None, as_json: bool) -> None:
    """Create a key. Its text is shown only now, on standard output."""
    wanted = NewKey(name=name, scopes=tuple(dict.fromkeys(scopes)), customer_id=customer, expires_at=expires)
    key, text = _run(lambda connection: create_key(connection, wanted))
    _start_logs()
    audit.key_created(f"bk_{key.id}", key.scopes, key.customer_id, _operator())
    if as_json:
        _print_json({"key": text} | msgspec.to_builtins(key))
        return
    click.echo(text)
    click.echo(f"Send it as: Authorization: Bearer {text[:9]}…  It cannot be shown again.", err=True)


@command.command(name="list")
@_json_option
def list_command(as_json: bool) -> None:
    """List all keys, without their secrets."""
    found = _run(list_keys)
    if as_json:
        _print_json(msgspec.to_builtins(found))
        return
    rows = [_HEADINGS, *(_row(key, datetime.now(UTC)) for key in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command()
@click.argument("key")
@_json_option
def revoke(key: str, as_json: bool) -> None:
    """Revoke a key, named by its id as `list` shows it. Running services refuse it within five seconds."""
    key_id = _KEY_ID.fullmatch(key)
    revoked = _run(lambda connection: revoke_key(connection, key_id[1])) if key_id else None
    if revoked is None:
        sys.exit("billing-service: there is no key with this id. Run: billing-service keys list")
    _start_logs()
    audit.key_revoked(f"bk_{revoked.id}", revoked.customer_id, _operator())
    if as_json:
        _print_json(msgspec.to_builtins(revoked))
    else:
        click.echo(f"bk_{revoked.id} is revoked since {_time(revoked.revoked_at)}")


def _start_logs() -> None:
    # Imported only here: it brings structlog, which `keys list` does without.
    import_module("billing_service.telemetry.logs").start_logs(load_settings())


def _run(work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do `work` on a connection to the database. Raises MigrationError if its schema is not this program's."""
    with named_or_embedded(load_settings()) as (settings, _), unavailable_if_away():

        async def work_connected() -> T:
            async with connected(settings) as connection:
                await check_schema(connection)
                return await work(connection)

        return asyncio.run(work_connected())


def _operator() -> str:
    """Who runs the command, for the audit log: the user that the process belongs to, whatever the environment says."""
    if sys.platform == "win32":
        return "command line"
    user = os.getuid()
    try:
        return f"command line, user {pwd.getpwuid(user).pw_name}"
    except KeyError:  # as in a container that runs under a number without a name
        return f"command line, user {user}"


def _row(key: Key, now: datetime) -> tuple[str, ...]:
    expired = key.expires_at is not None and key.expires_at <= now
    state = "revoked" if key.revoked_at else "expired" if expired else "good"
    times = (_time(time) for time in (key.created_at, key.expires_at, key.last_used_at))
    return (f"bk_{key.id}", state, key.name, " ".join(key.scopes), key.customer_id or "all", *times)


def _time(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}Z"


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)))
