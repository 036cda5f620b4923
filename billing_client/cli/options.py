"""The options that commands share."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from msgspec import Struct

from billing_client import BillingSystemClient, ConfigurationError

LOCAL_SERVICE = "http://127.0.0.1:3000"
F = TypeVar("F", bound=Callable[..., Any])


class Connection(Struct, frozen=True):
    """Where the service is, with which key to call it, and for how long (seconds) to try."""

    base_url: str
    api_key_file: Path | None
    timeout: float

    def client(self, **changes: Any) -> BillingSystemClient:
        """A client of the service. Raises ConfigurationError, OSError."""
        api_key = None if self.api_key_file is None else _read_key(self.api_key_file)
        given = {"base_url": self.base_url, "api_key": api_key, "timeout": self.timeout}
        return BillingSystemClient(**given | changes)


def _read_key(file: Path) -> str:
    try:
        key = file.read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} holds no API key: it is not text") from error
    if not key:
        raise ConfigurationError(f"{file} holds no API key: it is empty")
    return key


def connection_options(timeout: float) -> Callable[[F], F]:
    """`--base-url`, `--api-key-file` and `--timeout`, which the command gets as `connection`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def command(base_url: str, api_key_file: Path | None, timeout: float, **others: Any) -> Any:
            return function(connection=Connection(base_url, api_key_file, timeout), **others)

        options = (
            click.option(
                "--base-url",
                envvar="BILLING_BASE_URL",
                default=LOCAL_SERVICE,
                metavar="URL",
                show_default=True,
                show_envvar=True,
                help="Address of the service.",
            ),
            click.option(
                "--api-key-file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="File that holds the API key, where it is not in BILLING_API_KEY.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0, min_open=True),
                default=timeout,
                metavar="SECONDS",
                show_default=True,
                help="How long to try while the service is away.",
            ),
        )
        return with_options(*options)(command)  # type: ignore[return-value]  # the options change its signature

    return decorate


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts; failures too.")


def instant(_: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time as RFC 3339 has it, or less: a date, a time without an offset."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        message = f"{value!r} is no time such as 2026-11-01 or 2026-11-01T08:00:00Z."
        raise click.BadParameter(message, param=param) from error


def pairs(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Texts `NAME=VALUE`, by name."""
    given: dict[str, str] = {}
    for text in values:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param=param)
        if name in given:
            raise click.BadParameter(f"{name!r} is given more than once.", param=param)
        given[name] = value
    return given


filter_option = click.option(
    "--dimension",
    "dimensions",
    multiple=True,
    callback=pairs,
    metavar="NAME=VALUE",
    help="Only usage with this dimension; repeatable.",
)

span_options = with_options(
    click.option(
        "--from", "start", callback=instant, metavar="TIME", help="What occurred then or later, e.g. 2026-11-01."
    ),
    click.option("--to", "end", callback=instant, metavar="TIME", help="What occurred before."),
)


def zone_option(_: click.Context, param: click.Parameter, value: str | None) -> ZoneInfo | None:
    """An IANA time zone."""
    try:
        return None if value is None else ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise click.BadParameter(f"{value!r} is no IANA time zone.", param=param) from error


def in_zone(value: datetime | None, timezone: str = "UTC") -> datetime | None:
    """A time as the zone's clocks have it, where it has no offset of its own."""
    if value is None or value.tzinfo is not None:
        return value
    try:
        return value.replace(tzinfo=ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise click.BadParameter(f"{timezone!r} is no IANA time zone.", param_hint="--timezone") from error
