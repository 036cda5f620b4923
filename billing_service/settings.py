"""The settings: the one place that reads the environment. See the table in README.md."""

import os
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints
from urllib.parse import urlsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Meta, Struct

from billing_client.contract.wire import MAX_BATCH_RECORDS
from billing_service.currencies import MINOR_UNITS

ENV_FILES = {"development": ".env", "staging": ".env.staging", "production": ".env.production"}
_SECRET = {"DATABASE_URL", "BILLING_RATE_LIMIT_STORE"}
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class SettingsError(Exception):
    """A setting is bad; the message is one line for the operator and holds no secret."""


class Rate(NamedTuple):
    """So many requests or records in a period: the size of a bucket, which fills up again within it."""

    quota: int
    period: timedelta
    unit: Literal["requests", "records"]

    @property
    def seconds(self) -> int:
        return int(self.period.total_seconds())


_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_RateText = Annotated[
    Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}/[smhd]\Z")] | None,
    Meta(description="a number for each second, minute, hour or day, such as 600/m"),
]


def _variable(field: str) -> str:
    return "DATABASE_URL" if field == "database_url" else f"BILLING_{field.upper()}"


class Settings(Struct, frozen=True, kw_only=True, rename=_variable):
    """Every setting, validated. Times are in seconds."""

    env: Annotated[
        Literal["development", "staging", "production"],
        Meta(description="one of development, staging, production"),
    ] = "development"
    database_url: Annotated[
        str | None, Meta(description="a URL such as postgresql://user:password@host:5432/database")
    ] = None
    data_dir: Annotated[str | None, Meta(description="the path of a folder")] = None
    host: Annotated[str, Meta(min_length=1, description="an address or host name")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")] = 3000
    workers: Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")] = 1
    currency: Annotated[
        str,
        Meta(pattern=rf"^(?:{'|'.join(MINOR_UNITS)})\Z", description="the ISO 4217 code of a currency such as USD"),
    ] = "USD"
    pgbouncer: Annotated[
        bool, Meta(description="true or false: whether DATABASE_URL is a PgBouncer in transaction mode")
    ] = False
    pool_size: Annotated[int, Meta(ge=2, le=1000, description="a whole number from 2 to 1000")] = 10
    database_timeout: Annotated[float, Meta(gt=0, le=600, description="seconds, above 0, at most 600")] = 10
    drain_delay: Annotated[float, Meta(ge=0, le=600, description="seconds from 0 to 600")] = 0
    shutdown_timeout: Annotated[int, Meta(ge=1, le=600, description="whole seconds from 1 to 600")] = 30
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="a whole number from 1024 to 1073741824")] = (
        8 * 1024 * 1024
    )
    queue_records: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")] = 10_000
    max_requests: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")] = 1000
    requests_per_key: _RateText = None
    records_per_key: _RateText = None
    requests_per_address: _RateText = None
    records_per_address: _RateText = None
    rate_limit_store: Annotated[
        Annotated[str, Meta(pattern=r"^rediss?://")] | None,
        Meta(description="a URL such as redis://user:password@host:6379/0"),
    ] = None
    trusted_proxies: Annotated[str | None, Meta(description="addresses or networks, with commas between")] = None
    log_format: Annotated[Literal["auto", "json", "console"], Meta(description="one of auto, json, console")] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="one of debug, info, warning, error")
    ] = "info"
    traces: Annotated[Literal["off", "otlp"], Meta(description="one of off, otlp")] = "off"

    @property
    def log_is_json(self) -> bool:
        """Whether the log is for programs to read."""
        return self.log_format == "json" or (self.log_format == "auto" and self.env != "development")

    @property
    def key_required(self) -> bool:
        """Whether each call must show an API key."""
        return self.env != "development"

    @property
    def rates(self) -> dict[str, Rate | None]:
        """The rate limits by the name of their policy, None where there is none."""
        return {
            "address-requests": _rate(self.requests_per_address, "requests"),
            "address-records": _rate(self.records_per_address, "records"),
            "key-requests": _rate(self.requests_per_key, "requests"),
            "key-records": _rate(self.records_per_key, "records"),
        }


def _rate(text: str | None, unit: Literal["requests", "records"]) -> Rate | None:
    if text is None:
        return None
    quota, _, period = text.partition("/")
    return Rate(int(quota), _PERIODS[period], unit)


def load_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings from the environment, then the file for its BILLING_ENV, then the defaults.

    `overrides` are settings by field name, None where not given; they win over all.
    Raises SettingsError, with one line that names the variable, its fault and what would be right.
    """
    environment = os.environ if environment is None else environment
    env = _convert("env", environment.get("BILLING_ENV") or "development")
    values = {name: value for name, value in dotenv_values(ENV_FILES[env]).items() if value}
    values |= {name: value for name, value in environment.items() if value}
    values["BILLING_ENV"] = env
    given: dict[str, object] = {
        field: values[_variable(field)] for field in Settings.__struct_fields__ if _variable(field) in values
    }
    given |= {field: value for field, value in overrides.items() if value is not None}
    settings = Settings(**{field: _convert(field, value) for field, value in given.items()})
    _check_database_url(settings)
    _check_limits(settings)
    return settings


def _convert(field: str, value: object) -> Any:
    type_ = get_type_hints(Settings, include_extras=True)[field]
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        name = _variable(field)
        shown = "what it holds (not shown)" if name in _SECRET else repr(value)
        raise SettingsError(f"{name}: {shown} is not valid; it must be {type_.__metadata__[0].description}") from error


def _check_database_url(settings: Settings) -> None:
    right = "it must be a URL such as postgresql://user:password@host:5432/database"
    if settings.database_url is None:
        if settings.env != "development":
            fault = f"it is not set, and BILLING_ENV={settings.env} does not run on the embedded database"
            raise SettingsError(f"DATABASE_URL: {fault}; {right}")
        return
    try:
        parts = urlsplit(settings.database_url)
        hosts = parts.netloc.rpartition("@")[2].split(",")  # libpq takes several
        well_formed = settings.database_url.startswith(("postgresql://", "postgres://"))
        well_formed = well_formed and all(urlsplit(f"//{host}").port != 0 for host in hosts)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise SettingsError(f"DATABASE_URL: what it holds (not shown) is not valid; {right}")


def _check_limits(settings: Settings) -> None:
    for field in ("records_per_key", "records_per_address"):
        rate = _rate(getattr(settings, field), "records")
        if rate is not None and rate.quota < MAX_BATCH_RECORDS:
            fault = f"a batch may hold {MAX_BATCH_RECORDS} records, and would never pass"
            right = f"it must be {MAX_BATCH_RECORDS} or more, such as {MAX_BATCH_RECORDS}/m"
            raise SettingsError(f"{_variable(field)}: {getattr(settings, field)!r} is not valid: {fault}; {right}")
    if settings.rate_limit_store is not None and find_spec("redis") is None:
        fault = "it is set, but the client of Redis is not installed; it must be unset, or run"
        raise SettingsError(f"BILLING_RATE_LIMIT_STORE: {fault}: pip install 'billing-system[service,redis]'")
    for address in filter(None, (settings.trusted_proxies or "").split(",")):
        try:
            ip_network(address.strip())
        except ValueError as error:
            right = "it must be addresses or networks, with commas between, such as 10.0.0.1,10.1.0.0/16"
            raise SettingsError(f"BILLING_TRUSTED_PROXIES: {address!r} is not valid; {right}") from error


def export_settings(settings: Settings) -> None:
    """Hand the settings on to the worker processes, through the environment they inherit."""
    for name, value in msgspec.to_builtins(settings).items():
        if value is not None:
            os.environ[name] = str(value)


def share_metrics(folder: str) -> None:
    """Let the worker processes count in files of this folder (prometheus_client asks the environment)."""
    os.environ[_METRICS_FOLDER] = folder


def metrics_folder() -> Path | None:
    """The folder of `share_metrics`, None where this process serves alone."""
    folder = os.environ.get(_METRICS_FOLDER)
    return Path(folder) if folder else None
